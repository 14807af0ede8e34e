"""Ballots of a project: their images, their votes in the table, and what becomes of these."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alignment.contracts.evaluation import EvalReport, EvalSpec
from pipelines.commands import cli
from pipelines.platform.ballot.ballot import LEFT, RIGHT, TIE, Ballot
from pipelines.project.file import load_project
from pipelines.stages import ballots, pairs
from pipelines.store.folders import hash_folder
from pipelines.store.storage import open_store

ROOT = Path(__file__).parents[3]
GIVEN: dict[str, Any] = {"annotator": "ada", "source": "", "most": 100}


def rows_of(path: Path, columns: str = "*") -> list[sqlite3.Row]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    found = connection.execute(f"SELECT {columns} FROM feedback_votes ORDER BY id").fetchall()
    connection.close()
    return found


def prefer_candidate(ballot: Ballot, digest: str, number: int) -> None:
    left = ballot.pairs[number].left.generator.endswith(digest)
    ballot.vote(number, LEFT if left else RIGHT)


@pytest.fixture
def path(judged_project: Any) -> str:
    pairs.init_feedback(str(judged_project.path))
    return str(judged_project.path)


def test_a_vote_holds_the_images_that_were_shown_and_survives_a_restart(judged_project: Any, path: str) -> None:
    ballot = ballots.gate_ballot(path, **GIVEN)
    assert len(ballot.pairs) == 58, "two prompts stay without votes"
    ballot.vote(0, LEFT)
    ballot.vote(1, TIE)
    pair = ballot.pairs[0]
    row, tie = rows_of(judged_project.votes)
    by_generator = {f"tiny version 2 {'c' * 64}": "c" * 64, f"tiny base {'b' * 64}": "b" * 64}
    for side, image in ((pair.left, "image_0"), (pair.right, "image_1")):
        name = side.uri.rpartition("/")[2]
        assert row[image] == judged_project.images[by_generator[side.generator]][name] == ballot.read_image(side.uri)
    assert (row["generator_0"], row["generator_1"]) == (pair.left.generator, pair.right.generator)
    assert (row["prompt"], row["annotator"], row["preference"], row["left_image"]) == (pair.prompt, "ada", 1.0, 0)
    assert (row["evaluation"], tie["preference"]) == (judged_project.report.digest, 0.5)
    again = ballots.gate_ballot(path, **GIVEN)
    assert again.pairs == ballot.pairs
    assert (again.current(), again.num_voted) == (2, 2)
    again.vote(0, RIGHT)
    assert len(rows_of(judged_project.votes)) == 2
    other = ballots.gate_ballot(path, **{**GIVEN, "annotator": "bob"})
    assert other.num_voted == 0
    assert ballots.gate_ballot(path, **{**GIVEN, "most": 7}).pairs == ballot.pairs[:7]


def test_the_gate_reads_the_votes_and_training_does_not(
    judged_project: Any, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["gate", "people", path]) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert f"There are no votes on the last evaluation of tiny yet. Run `plumbline vote {path}`" in error
    ballot = ballots.gate_ballot(path, **GIVEN)
    for number in range(40):
        prefer_candidate(ballot, "c" * 64, number)
    for number in range(40, 50):
        prefer_candidate(ballot, "b" * 64, number)
    assert cli.main(["gate", "people", path]) == cli.DONE
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["num_labelled"], found["num_unlabelled"], found["people_alone"]) == (50, 10, 0.8)
    text = judged_project.path.read_text()
    start, end = text.index("[[sources]]"), text.index("[snapshot]")
    judged_project.path.write_text(text[:start] + text[end:])
    with pytest.raises(ValueError, match=r"no source has pairs to train on yet \(votes\)"):
        pairs.list_shards(path)


def test_votes_on_other_weights_do_not_count(judged_project: Any, path: str) -> None:
    ballot = ballots.gate_ballot(path, **GIVEN)
    for number in range(31):
        prefer_candidate(ballot, "c" * 64, number)
    with sqlite3.connect(judged_project.votes) as connection:
        connection.execute("UPDATE feedback_votes SET generator_0 = 'tiny version 9 ' || id WHERE id <= 2")
    connection.close()
    with pytest.raises(ValueError, match="People voted on 29 of 60 prompts"):
        ballots.people_win_rates(judged_project.path, None)


def test_what_is_missing_is_named_with_the_next_step(judged_project: Any, tmp_path: Path) -> None:
    path, text = judged_project.path, judged_project.path.read_text()
    with pytest.raises(ValueError, match="Run `plumbline feedback init` first"):
        ballots.gate_ballot(str(path), **GIVEN)
    pairs.init_feedback(str(path))
    path.write_text(text + text[text.index('[[sources]]\nname = "votes"') :].replace('"votes"', '"more"'))
    with pytest.raises(ValueError, match=r"has the feedback sources votes, more\. Name one of them with --source"):
        ballots.gate_ballot(str(path), **GIVEN)
    assert ballots.gate_ballot(str(path), **{**GIVEN, "source": "more"}).num_voted == 0
    with pytest.raises(ValueError, match="Name one of them"):
        ballots.gate_ballot(str(path), **{**GIVEN, "source": "tiny_pairs"})
    path.write_text(text[: text.index('[[sources]]\nname = "votes"')])
    with pytest.raises(ValueError, match=r'Add this table.*\n\n\[\[sources\]\]\nname = "votes"\nkind = "feedback"'):
        ballots.gate_ballot(str(path), **GIVEN)
    with pytest.raises(ValueError, match="names no table of votes"):
        ballots.people_win_rates(tmp_path / "decision.json", None)


def test_the_table_that_the_error_shows_works(judged_project: Any) -> None:
    path, text = judged_project.path, judged_project.path.read_text()
    path.write_text(text[: text.index('[[sources]]\nname = "votes"')])
    with pytest.raises(ValueError) as error:
        ballots.gate_ballot(str(path), **GIVEN)
    path.write_text(path.read_text() + str(error.value).partition("\n")[2])
    assert [source.kind for source in load_project(path).sources] == ["pick_a_pic", "feedback"]
    pairs.init_feedback(str(path))
    assert ballots.gate_ballot(str(path), **GIVEN).current() == 0


def test_images_that_are_gone_are_named(judged_project: Any, path: str) -> None:
    store, spec = judged_project.store, judged_project.report.spec
    store.delete(store.uri("evaluations", "samples", spec.sample_spec(spec.champion).digest, "manifest.json"))
    with pytest.raises(ValueError, match=r"images of tiny base are not in the store at .*Evaluate again"):
        ballots.gate_ballot(path, **GIVEN)
    store.delete(f"{judged_project.report.uri}/manifest.json")
    with pytest.raises(ValueError, match="is no longer in the store"):
        ballots.gate_ballot(path, **GIVEN)


def test_without_a_decision_both_ways_are_named(tiny_project: Any, judged_project: Any, path: str) -> None:
    store = judged_project.store
    for uri in store.list_uris(store.uri("evaluations", "decisions")):
        store.delete(uri)
    with pytest.raises(ValueError, match=r"no decision yet.*plumbline gate .* --prompts FILE"):
        ballots.gate_ballot(path, **GIVEN)


# --- votes to train on ----------------------------------------------------------------------------------------------

TRAINING = "prompt\tcategory\n" + "".join(f"an animal, number {number}\tany\n" for number in range(12))


@pytest.fixture
def drawn(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A project with a registered candidate, where a drawing job leaves ready-made images."""
    for name, value in (
        ("PLUMBLINE_STORE_URI", world.settings.store_uri),
        ("PLUMBLINE_STATE_DIR", str(world.settings.state_dir)),
        ("MLFLOW_TRACKING_URI", world.settings.tracking_uri),
    ):
        monkeypatch.setenv(name, value)
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    feedback = '[[sources]]\nname = "votes"\nkind = "feedback"\nuri = "votes.db"\nlicence = "CC0-1.0"\n[validation]'
    file = tmp_path / f"{world.project.name}.toml"
    text = text.replace('name = "shapes"', f'name = "{world.project.name}"', 1).replace("[validation]", feedback, 1)
    file.write_text(text)
    (tmp_path / "animals.tsv").write_text(TRAINING)
    pairs.init_feedback(str(file))
    world.base_digest = hash_folder(ROOT / "examples/shapes/base")[0]
    specs: list[EvalSpec] = []

    def run(request: Any, *_: Any, **__: Any) -> dict[str, Any]:
        spec = EvalSpec.model_validate(request.spec)
        specs.append(spec)
        store = open_store(world.settings.store_uri, world.settings)
        for digest in {spec.sample_spec(model).digest for model in spec.models().values()}:
            folder = tmp_path / digest
            folder.mkdir(exist_ok=True)
            for index in range(12):
                for seed in spec.seeds:
                    (folder / f"{index:05d}_{seed}.png").write_bytes(f"{digest} {index} {seed}".encode())
            store.publish_folder(folder, store.uri("evaluations", "samples", digest), {})
        digests = {"scores_digest": "f" * 64, "num_prompts": 12}
        return EvalReport(uri="", spec=spec, comparisons=(), calibrations=(), **digests).model_dump(mode="json")

    monkeypatch.setattr("pipelines.dispatch.jobs.run_to_end", run)
    return {"world": world, "path": str(file), "prompts": str(tmp_path / "animals.tsv"), "specs": specs}


def training_ballot(drawn: dict[str, Any]) -> Ballot:
    return ballots.training_ballot(drawn["path"], drawn["prompts"], run_key="by hand", **GIVEN)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_votes_on_training_prompts_are_pairs_of_the_next_snapshot(drawn: dict[str, Any]) -> None:
    candidate = drawn["world"].register("a")
    ballot = training_ballot(drawn)
    (spec,) = drawn["specs"]
    assert (spec.candidate.weights_digest, spec.champion.kind) == (candidate.weights_digest, "base")
    assert [judge.name for judge in spec.judges] == ["saturation"]
    assert spec.guards == ()
    assert len(ballot.pairs) == 12, "every prompt"
    assert "train" in ballot.note
    for number in range(12):
        prefer_candidate(ballot, candidate.weights_digest, number)
    votes = Path(drawn["path"]).parent / "votes.db"
    assert {row["evaluation"] for row in rows_of(votes)} == {None}
    (shard,) = [shard for shard in pairs.list_shards(drawn["path"]) if shard["source"] == "votes"]
    batch = pairs.ingest(drawn["path"], shard)
    table = pq.read_table(Path(batch["uri"].removeprefix("file://")) / "pairs.parquet")
    assert sorted(table["prompt"].to_pylist()) == sorted(pair.prompt for pair in ballot.pairs)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_candidate_that_became_champion_is_compared_with_the_base(
    drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = drawn["world"].register("a")
    monkeypatch.setattr("pipelines.release.champion.versions.champion_of", lambda workspace: candidate)
    ballot = training_ballot(drawn)
    assert {pair.left.generator.split()[1] for pair in ballot.pairs} == {"version", "base"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_held_out_prompts_are_refused_before_anything_is_drawn(drawn: dict[str, Any]) -> None:
    drawn["world"].register("a")
    held_out = (ROOT / "examples/shapes/prompts.tsv").read_text().splitlines()[5]
    Path(drawn["prompts"]).write_text(TRAINING + held_out.upper() + "\n")
    with pytest.raises(ValueError, match=r"holds 1 prompts of the evaluation \(lines 14\)"):
        training_ballot(drawn)
    assert drawn["specs"] == []
    Path(drawn["prompts"]).write_text("a fox\n")
    with pytest.raises(ValueError, match="must begin with the header"):
        training_ballot(drawn)
