"""People's votes beside a judge whose word on every prompt is known."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.evaluation import EvalReport, EvalSpec, ModelRef, Sampler
from alignment.contracts.judges import Judge
from alignment.statistics.comparison import ScoreTable, win_rate_interval
from alignment.statistics.score_grids import ScoreGrids
from pipelines.commands import cli
from pipelines.contracts.release import CandidateVersion, GateCheck, GateDecision
from pipelines.release.gate.human_votes import _win_rates, read_votes
from pipelines.settings import Settings
from pipelines.store.storage import open_store

NUM_PROMPTS = 400
PROMPTS = {index: f"Prompt, number {index}!" for index in range(NUM_PROMPTS)}
JUDGES = tuple(Judge(name=name, scorer=ClipPreference(), weights_digest=name[0] * 64) for name in ("able", "barred"))


def report() -> EvalReport:
    base = ModelRef(kind="base", weights_digest="b" * 64)
    spec = EvalSpec(
        candidate=ModelRef(kind="lora", weights_digest="c" * 64),
        champion=base,
        base_digest="b" * 64,
        backbone=StableDiffusion(resolution=64),
        prompts_digest="d" * 64,
        seeds=(0,),
        sampler=Sampler(),
        judges=JUDGES,
        guards=(),
        snapshot_digest="e" * 64,
    )
    return EvalReport(
        uri="", spec=spec, scores_digest="f" * 64, num_prompts=NUM_PROMPTS, comparisons=(), calibrations=()
    )


def decision(*voting: str) -> GateDecision:
    checks = [
        GateCheck(kind="may_vote", subject=j.name, measured=None, passed=j.name in voting, explanation="")
        for j in JUDGES
    ]
    candidate = CandidateVersion(
        model="tiny",
        version=1,
        kind="lora",
        weights_digest="c" * 64,
        weights_uri="",
        spec_digest="1" * 64,
        base_digest="b" * 64,
        snapshot_digest="e" * 64,
        trained_on=(),
        run_id="",
    )
    return GateDecision(
        verdict="hold",
        mode="enforce",
        checks=tuple(checks),
        reasons=(),
        candidate=candidate,
        champion_version=None,
        champion_weights_digest="b" * 64,
        report_digest="2" * 64,
        evaluation_uri="",
        report_uri="",
        scores_digest="f" * 64,
        policy_digest="3" * 64,
    )


def grids(prefers: list[bool], alike: int = 1) -> ScoreGrids:
    """`alike` prompts in a row are near-duplicates. Both judges score the candidate 1 where
    they prefer it, else -1; the champion always 0."""
    rows = [
        (role, judge.name, index, 0, (1.0 if prefers[index] else -1.0) if role == "candidate" else 0.0)
        for role in ("candidate", "champion")
        for judge in JUDGES
        for index in range(NUM_PROMPTS)
    ]
    names = ("role", "scorer", "prompt_index", "seed", "score")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["group"] = [index - index % alike for index in columns["prompt_index"]]
    return ScoreGrids.from_table(ScoreTable.from_columns(columns))[0]


def votes_of(path: Path, people: list[bool], num: int) -> dict[str, float]:
    lines = [f'"{PROMPTS[i]}",{"candidate" if people[i] else "champion"}' for i in range(num)]
    path.write_text("\n".join(["prompt,pick", *lines]) + "\n")
    return read_votes(path)


def test_a_biased_judge_helps_without_misleading(tmp_path: Path) -> None:
    """People prefer the candidate on half of the prompts; the judge does too, and on a fifth of the others."""
    generator = np.random.default_rng(5)
    people = (np.arange(NUM_PROMPTS) % 2 == 0).tolist()
    judged = [own or bool(generator.random() < 0.2) for own in people]
    assert sum(judged) / NUM_PROMPTS > 0.57, "alone, the judge would be wrong"
    (found,) = _win_rates(
        decision("able"), report(), grids(judged), prompts=PROMPTS, votes=votes_of(tmp_path / "v.csv", people, 100)
    )
    assert (found.judge, found.num_labelled, found.num_unlabelled, found.people_alone) == ("able", 100, 300, 0.5)
    assert found.low < 0.5 < found.high
    assert (found.people_alone_low, found.people_alone_high) == win_rate_interval(50, 0, 50, confidence=0.95)
    assert found.high - found.low < 0.9 * (found.people_alone_high - found.people_alone_low), "it agrees on 90 %"
    assert found.agreement == sum(a == b for a, b in zip(people[:100], judged[:100], strict=True)) / 100


def test_votes_on_near_duplicates_are_votes_on_one_prompt(tmp_path: Path) -> None:
    people = [index % 4 < 3 for index in range(NUM_PROMPTS)]
    firsts = {index: index - index % 4 for index in PROMPTS}
    votes = votes_of(tmp_path / "v.csv", people, 200)
    (found,) = _win_rates(
        decision("able"), report(), grids([True] * 400, alike=4), prompts=PROMPTS, votes=votes, groups=firsts
    )
    assert (found.num_labelled, found.num_unlabelled, found.people_alone) == (50, 50, 1.0)


def test_votes_on_one_prompt_are_a_majority_and_an_even_one_is_half_a_win(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("prompt,pick\na fox,candidate\nA fox!,candidate\na fox,champion\na kite,tie\n")
    assert read_votes(tmp_path / "v.csv") == {"a fox": pytest.approx(2 / 3), "a kite": 0.5}
    votes = votes_of(tmp_path / "v.csv", [True] * 40, 40) | {"prompt number 50": 0.5}
    (found,) = _win_rates(decision("able"), report(), grids([True] * 400), prompts=PROMPTS, votes=votes)
    assert (found.num_labelled, found.num_ties, found.num_unlabelled) == (41, 1, 359)
    assert (found.win_rate, found.low) == (40.5 / 41, found.people_alone_low), "the judge has no spread: votes alone"
    assert (found.people_alone_low, found.people_alone_high) == win_rate_interval(40, 1, 0, confidence=0.95)
    assert found.agreement == 1.0, "of what people decided"


@pytest.mark.parametrize("tie_share", [0.0, 0.4])
def test_the_interval_holds_the_win_rate_of_all_prompts_with_ties_half(tie_share: float) -> None:
    """People win 70 % of what they decide, the judge says the candidate on half of their ties: 95 % of 400 intervals
    hold the truth, give or take 2 points. Leaving ties out of the labelled prompts alone held it in next to none.
    """
    rng, truth, held, trials = np.random.default_rng(2), 0.7 * (1 - tie_share) + 0.5 * tie_share, 0, 400
    for _ in range(trials):
        tied = rng.random(NUM_PROMPTS) < tie_share
        people = np.where(tied, 0.5, rng.random(NUM_PROMPTS) < 0.7)
        judged = np.where(rng.random(NUM_PROMPTS) < 0.9, people, 1 - people)
        judged = np.where(tied, rng.random(NUM_PROMPTS) < 0.9, judged)
        votes = {f"prompt number {i}": float(people[i]) for i in rng.choice(NUM_PROMPTS, 150, replace=False)}
        (found,) = _win_rates(decision("able"), report(), grids((judged > 0.5).tolist()), prompts=PROMPTS, votes=votes)
        held += found.low <= truth <= found.high
    assert held / trials >= 0.92


def test_the_command_reads_decision_evaluation_and_votes(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = open_store(settings.store_uri, settings), tmp_path / "evaluation"
    uri = store.uri("evaluations", "1")
    rows = [
        (role, judge.name, i, PROMPTS[i], 0, float(i % 3) if role == "candidate" else 0.5)
        for role in ("candidate", "champion")
        for judge in JUDGES
        for i in range(NUM_PROMPTS)
    ]
    names = ("role", "scorer", "prompt_index", "prompt", "seed", "score")
    folder.mkdir()
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), folder / "scores.parquet")
    store.publish_folder(folder, uri, report().model_copy(update={"uri": uri}).model_dump(mode="json"))
    decided = decision("able").model_copy(update={"evaluation_uri": uri})
    (tmp_path / "decision.json").write_text(decided.model_dump_json())
    votes_of(tmp_path / "v.csv", [i % 2 == 0 for i in range(NUM_PROMPTS)], 60)
    monkeypatch.setenv("PLUMBLINE_STORE_URI", settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(settings.state_dir))
    command = ["gate", "people", str(tmp_path / "decision.json"), str(tmp_path / "v.csv")]
    assert cli.main(command) == cli.DONE
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["judge"], found["num_labelled"], found["people_alone"]) == ("able", 60, 0.5)
    gone = decided.model_copy(update={"evaluation_uri": f"{uri}0"})
    (tmp_path / "decision.json").write_text(gone.model_dump_json())
    assert cli.main(command) == cli.BAD_INPUT
    assert "no longer in the store" in capsys.readouterr().err


def test_what_cannot_be_estimated_is_refused(tmp_path: Path) -> None:
    table, scores = tmp_path / "v.csv", grids([True] * 400)
    enough, few = votes_of(table, [True] * 40, 40), votes_of(table, [True] * 29, 29)
    for own, allowed, message in (
        (few, "able", "People voted on 29 of 400 prompts"),
        ({**enough, "a stranger": 1.0}, "able", "not in the evaluation, e.g. 'a stranger'"),
        (enough, "nobody", "No judge may vote"),
    ):
        with pytest.raises(ValueError, match=message):
            _win_rates(decision(allowed), report(), scores, prompts=PROMPTS, votes=own)
    table.write_text("prompt,pick\na fox,challenger\n")
    with pytest.raises(ValueError, match="lines 2 are not"):
        read_votes(table)
