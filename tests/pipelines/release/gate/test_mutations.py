"""Evidence that was damaged, swapped or overtaken, through the stage that judges and the code that moves the alias.

A good candidate is promoted; each mutation of the same evidence is invalid or refused, and says why.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.contracts.calibration import (
    Calibration,
    CalibrationReport,
    CalibrationSpec,
    JudgeCalibration,
    RaterReliability,
)
from alignment.contracts.evaluation import EvalReport, ModelRef
from alignment.contracts.judges import Judge
from alignment.statistics.human_pairs import JudgedPair, PairFacts, ScoredPair, agreements, from_columns, scores_table
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.file import Project, load_project
from pipelines.records import calibrations
from pipelines.records.heldout_prompts import heldout_prompts
from pipelines.release import judge_candidate
from pipelines.release.champion import ledger
from pipelines.release.promotion.promote import promote
from pipelines.settings import Settings
from pipelines.store.storage import open_store, sha256_file
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

SHAPES = Path(__file__).parents[4] / "projects/shapes.toml"
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Docket:
    """All that the stage is given, before it is published."""

    project: Project
    settings: Settings
    report: EvalReport
    columns: Columns
    labels: Columns
    """calibration_scores.parquet"""
    candidate: CandidateVersion
    champion: CandidateVersion | None = None

    def judged(self, tmp_path: Path) -> GateDecision:
        """Publish the evaluation and judge it."""
        folder = tmp_path / "evaluation"
        folder.mkdir()
        pq.write_table(pa.table(self.columns), folder / "scores.parquet")
        store = open_store(self.settings.store_uri, self.settings)
        uri = store.uri("evaluations", "1")
        pq.write_table(scores_table(*from_columns(self.labels)), folder / "calibration_scores.parquet")
        report = self.report.model_copy(
            update={
                "uri": uri,
                "scores_digest": sha256_file(folder / "scores.parquet"),
                "calibration_scores_digest": sha256_file(folder / "calibration_scores.parquet"),
            }
        )
        store.publish_folder(folder, uri, report.model_dump(mode="json"))
        return judge_candidate.judge(
            Workspace(self.project, self.settings), candidate=self.candidate, champion=self.champion, report=report
        )


STILL = dict.fromkeys(
    ("caption_match", "diversity", "brightness", "checkerboard", "contrast", "high_frequency", "saturation"), 0.0
)
"""Guards and statistics of the shapes project, and their mean changes."""


def docket_of(project: Project, settings: Settings, evaluation: Any, candidate: CandidateVersion) -> Docket:
    """A good evaluation of a version against the base, on the project's own prompts and with all columns."""
    columns = {name: list(values) for name, values in evaluation.columns.items()}
    columns["prompt"] = [f"prompt {index}" for index in columns["prompt_index"]]
    columns["category"] = ["even" if index % 2 == 0 else "odd" for index in columns["prompt_index"]]
    columns["scorer_digest"] = [f"digest of {scorer}" for scorer in columns["scorer"]]
    spec = evaluation.report.spec.model_copy(
        update={
            "prompts_digest": heldout_prompts(project, open_store(settings.store_uri, settings)).digest,
            "candidate": ModelRef(kind=candidate.kind, weights_digest=candidate.weights_digest),
            "champion": ModelRef(kind="base", weights_digest=candidate.base_digest),
            "base_digest": candidate.base_digest,
        }
    )
    report = evaluation.report.model_copy(update={"spec": spec})
    return Docket(project, settings, report, columns, labels_of(report), candidate)


def labels_of(report: EvalReport, **facts: Any) -> Columns:
    """The 120 pairs from which the report's calibrations were made: every judge is right on the first 96."""
    pairs = [ScoredPair(str(i), 1.0 if i < 96 else -1.0, 0.0, False) for i in range(120)]
    rows = [JudgedPair(judge.name, pair) for judge in report.spec.judges for pair in pairs]
    known = {"source": "panel", "generators": "base", "created_at": datetime.now(UTC), **facts}
    columns: Columns = scores_table(rows, {pair.pair_id: PairFacts(**known) for pair in pairs}).to_pydict()
    return columns


@pytest.fixture
def whole_evaluation(evaluation_of: Any) -> Any:
    """A good evaluation with every scorer that the shapes project names."""
    return evaluation_of({"taste_a": 0.6, "taste_b": 0.5}, STILL)


@pytest.fixture
def docket(settings: Settings, whole_evaluation: Any) -> Docket:
    return docket_of(load_project(SHAPES), settings, whole_evaluation, whole_evaluation.candidate)


def test_the_untouched_evidence_promotes(docket: Docket, tmp_path: Path) -> None:
    decision = docket.judged(tmp_path)
    assert (decision.verdict, decision.reasons) == ("promote", ())
    assert {check.family for check in decision.checks} == {
        "evidence", "votes", "guards", "slices", "detectors", "power",
    }  # fmt: skip


def rows_where(columns: Columns, keep: Callable[[dict[str, Any]], bool]) -> Columns:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    kept = [row for row in rows if keep(row)]
    return {name: [row[name] for row in kept] for name in columns}


def changed(columns: Columns, name: str, row: int, value: Any) -> Columns:
    values = list(columns[name])
    values[row] = value
    return {**columns, name: values}


def with_spec(docket: Docket, **changes: Any) -> Docket:
    report = docket.report.model_copy(update={"spec": docket.report.spec.model_copy(update=changes)})
    return replace(docket, report=report)


def same_labels(docket: Docket) -> Docket:
    first, second = docket.report.spec.judges
    return with_spec(docket, judges=(first, second.model_copy(update={"trained_on": docket.candidate.trained_on})))


def new_champion(docket: Docket) -> Docket:
    other = docket.candidate.model_copy(update={"version": 9, "weights_digest": "9" * 64})
    return replace(docket, champion=other)


def few_pairs(docket: Docket) -> Docket:
    """Whole evidence, by which 60 of 120 comparisons were labelled."""
    ties = {**docket.labels, "is_tie": [int(name) % 2 == 1 for name in docket.labels["pair_id"]]}
    rows, facts = from_columns(ties)
    found, _ = agreements(docket.report.spec.judges, rows, facts, confidence=0.95)
    return replace(docket, labels=ties, report=docket.report.model_copy(update={"calibrations": tuple(found)}))


def raised(docket: Docket, **changes: Any) -> Docket:
    """Numbers of the report that its tables do not give."""
    calibrations = tuple(c.model_copy(update=changes) for c in docket.report.calibrations)
    return replace(docket, report=docket.report.model_copy(update={"calibrations": calibrations}))


MUTATIONS: dict[str, tuple[Callable[[Docket], Docket], str]] = {
    "a judge's rows dropped": (
        lambda d: replace(d, columns=rows_where(d.columns, lambda row: row["scorer"] != "taste_b")),
        "no scores",
    ),
    "the score column dropped": (
        lambda d: replace(d, columns={k: v for k, v in d.columns.items() if k != "score"}),
        "lacks score",
    ),
    "a NaN score": (lambda d: replace(d, columns=changed(d.columns, "score", 5, math.nan)), "not finite"),
    "a missing score": (lambda d: replace(d, columns=changed(d.columns, "score", 5, None)), "not finite"),
    "a score raised": (lambda d: replace(d, columns=changed(d.columns, "score", 5, 99.0)), "recomputed"),
    "other prompts in the report": (lambda d: with_spec(d, prompts_digest="7" * 64), "the project now names"),
    "candidate scored on another text": (
        lambda d: replace(d, columns=changed(d.columns, "prompt", 5, "an easier prompt")),
        "more than one text",
    ),
    "one row by another build of a judge": (
        lambda d: replace(d, columns=changed(d.columns, "scorer_digest", 5, "another build")),
        "more than one digest",
    ),
    "a prompt moved to another slice": (
        lambda d: replace(d, columns=changed(d.columns, "category", 5, "kind")),
        "change their category",
    ),
    "a judge trained on the same labels": (same_labels, "Only 1 of 2 judges may vote"),
    "champion changed during the evaluation": (new_champion, "the champion is version 9"),
    "too few human pairs": (few_pairs, "Only 0 of 2 judges may vote"),
    "agreement raised in the report": (lambda d: raised(d, accuracy_low=0.79), "calibration, accuracy_low: reported"),
    "more human pairs in the report": (lambda d: raised(d, num_pairs=500), "calibration, num_pairs: reported 500"),
    "labels turned in the table": (
        lambda d: replace(d, labels=changed(d.labels, "score_chosen", 119, 2.0)),
        "calibration, accuracy: reported",
    ),
    "a judge's labels dropped": (
        lambda d: replace(d, labels=rows_where(d.labels, lambda row: row["judge"] != "taste_b")),
        "calibration, accuracy: reported",
    ),
}


def test_a_report_that_names_no_calibration_table_is_invalid(docket: Docket, tmp_path: Path) -> None:
    """As reports of earlier versions do: they still read, and are no evidence any more."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    pq.write_table(pa.table(docket.columns), folder / "scores.parquet")
    store = open_store(docket.settings.store_uri, docket.settings)
    uri = store.uri("evaluations", "2")
    report = docket.report.model_copy(update={"uri": uri, "scores_digest": sha256_file(folder / "scores.parquet")})
    assert "calibration_scores_digest" not in report.model_dump(mode="json")
    store.publish_folder(folder, uri, report.model_dump(mode="json"))
    decision = judge_candidate.judge(
        Workspace(docket.project, docket.settings), candidate=docket.candidate, champion=None, report=report
    )
    assert decision.verdict == "invalid"
    assert "does not name the calibration table" in " ".join(decision.reasons)
    gone = report.model_copy(update={"calibration_scores_digest": "8" * 64})
    decision = judge_candidate.judge(
        Workspace(docket.project, docket.settings), candidate=docket.candidate, champion=None, report=gone
    )
    assert "the calibration table is not in the evaluation's folder" in " ".join(decision.reasons)


def with_policy(docket: Docket, **changes: Any) -> Docket:
    policy = docket.project.gate.model_copy(update=changes)
    return replace(docket, project=docket.project.model_copy(update={"gate": policy}))


def votes_lines(decision: GateDecision) -> str:
    return " ".join(check.explanation for check in decision.checks if check.kind == "may_vote")


def test_only_pairs_of_the_named_generators_earn_a_vote(docket: Docket, tmp_path: Path) -> None:
    decision = with_policy(docket, calibration_generators=("base",)).judged(tmp_path)
    assert decision.verdict == "promote"
    assert "on 120 held-out pairs drawn by base its agreement" in votes_lines(decision)


def test_pairs_of_another_model_earn_none(docket: Docket, tmp_path: Path) -> None:
    decision = with_policy(docket, calibration_generators=("flux",)).judged(tmp_path)
    assert decision.verdict == "invalid"
    assert "was checked on 0 human pairs drawn by flux; at least 100 are required" in votes_lines(decision)


def test_without_named_generators_the_explanation_states_it(docket: Docket, tmp_path: Path) -> None:
    assert "on 120 held-out pairs of any generator its" in votes_lines(docket.judged(tmp_path))


def test_one_pair_of_today_does_not_keep_old_ones_alive(docket: Docket, tmp_path: Path) -> None:
    """119 pairs of a thousand days ago and one of today; the record of each judge names today's as its newest."""
    now = datetime.now(UTC)
    dates = [now if name == "0" else now - timedelta(days=1000) for name in docket.labels["pair_id"]]
    docket = with_policy(
        replace(docket, labels={**docket.labels, "created_at": dates}), maximum_calibration_age_days=90
    )
    for judge, agreed in zip(docket.report.spec.judges, docket.report.calibrations, strict=True):
        remember(docket, judge, agreed, newest_pair_at=now)
    decision = docket.judged(tmp_path)
    assert decision.verdict == "invalid"
    assert (
        "checked on 1 human pairs of any generator and not older than 90 days; at least 100 are required"
        in votes_lines(decision)
    )


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_mutated_evidence_is_invalid_with_the_reason(docket: Docket, tmp_path: Path, mutation: str) -> None:
    mutate, reason = MUTATIONS[mutation]
    decision = mutate(docket).judged(tmp_path)
    assert decision.verdict == "invalid"
    assert any(reason in line for line in decision.reasons), decision.reasons


def test_an_expired_calibration_keeps_a_judge_from_voting(docket: Docket, tmp_path: Path) -> None:
    """The record of its weights speaks of pairs 120 days old; nothing at all is known of the other judge."""
    policy = docket.project.gate.model_copy(update={"maximum_calibration_age_days": 90})
    docket = replace(docket, project=docket.project.model_copy(update={"gate": policy}))
    judge = docket.report.spec.judges[0]
    remember(docket, judge, docket.report.calibrations[0], newest_pair_at=datetime.now(UTC) - timedelta(days=120))
    decision = docket.judged(tmp_path)
    assert decision.verdict == "invalid"
    text = {check.name: check.explanation for check in decision.checks if check.family == "votes"}
    assert "its newest human pairs are 120 days old, more than 90" in text[f"may_vote:{judge.name}"]
    other = docket.report.spec.judges[1].name
    assert "was never calibrated with these weights" in text[f"may_vote:{other}"]


def remember(docket: Docket, judge: Judge, agreed: Calibration, *, newest_pair_at: datetime) -> None:
    """Keep a calibration as the project does."""
    calibration = JudgeCalibration(
        judge=judge,
        snapshot_digest="5" * 64,
        confidence=0.95,
        tie_rule="human_ties_left_out_judge_ties_half",
        overall=agreed,
        slices=(),
        margin_slope=None,
        newest_pair_at=newest_pair_at,
    )
    report = CalibrationReport(
        uri="",
        spec=CalibrationSpec(judges=(judge,), snapshot_digest="5" * 64),
        scores_digest="6" * 64,
        reliability=RaterReliability(num_shared_pairs=0, num_labels=0, alpha=None),
        judges=(calibration,),
    )
    calibrations.record(report, docket.project.name, open_store(docket.settings.store_uri, docket.settings))


# --- after the decision: refused by the code that moves the alias -------------------------------------------------


def overwrite(uri: str, name: str) -> None:
    (path,) = Path(urlsplit(uri).path).rglob(name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def tamper_weights(world: Any, decision: GateDecision) -> GateDecision:
    overwrite(decision.candidate.weights_uri, "*.safetensors")
    return decision


def edit_scores(world: Any, decision: GateDecision) -> GateDecision:
    overwrite(decision.evaluation_uri, "scores.parquet")
    return decision


def loosen_policy(world: Any, decision: GateDecision) -> GateDecision:
    return world.kept(decision.model_copy(update={"policy_digest": "a" * 64}))


def swap_report(world: Any, decision: GateDecision) -> GateDecision:
    path = Path(urlsplit(decision.evaluation_uri).path) / "manifest.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"confidence": 0.95', '"confidence": 0.9'))
    return decision


def raise_a_number(world: Any, decision: GateDecision) -> GateDecision:
    """The gate's decision, with a check edited between two tasks that no later code reads."""
    first, *others = decision.checks
    return decision.model_copy(update={"checks": (first.model_copy(update={"explanation": "All good."}), *others)})


def drop_calibration(world: Any, decision: GateDecision) -> GateDecision:
    """The project requires calibrations that no judge has: by its current rules no judge could have voted."""
    policy = world.project.gate.model_copy(update={"maximum_calibration_age_days": 90})
    world.project = world.project.model_copy(update={"gate": policy})
    return world.kept(decision.model_copy(update={"policy_digest": policy.digest}))


def serve(edit: Callable[[Path], object]) -> Callable[[Any, GateDecision], GateDecision]:
    """What MLflow serves is downloaded, edited and put back, as anyone could who may write there."""

    def edited(world: Any, decision: GateDecision) -> GateDecision:
        model, settings = world.project.name, world.settings
        served = registry.fetch_served(settings, model, decision.candidate.version, world.folder / "edited")
        edit(served)
        with runs.connect(settings.tracking_uri) as client:
            source = client.get_model_version(model, str(decision.candidate.version)).source
            client.log_model_artifacts(source.removeprefix("models:/"), str(served))
        return decision

    return edited


def prepend_code(served: Path) -> None:
    file = served / "pyfunc_model.py"
    file.write_text("import os; os.environ['OWNED'] = 'yes'\n" + file.read_text())


def name_another_base(served: Path) -> None:
    file = served / "MLmodel"
    file.write_text(file.read_text().replace("base_model: ", "base_model: /another"))


AFTERWARDS = {
    "served code changed": (
        serve(prepend_code),
        r"are not the registered ones: pyfunc_model\.py differ\. Nothing was moved",
    ),
    "served base changed": (serve(name_another_base), "are not the registered ones: MLmodel differ"),
    "a file added": (
        serve(lambda f: (f / "sitecustomize.py").write_text("1")),
        r"registered ones: sitecustomize\.py differ",
    ),
    "weights tampered with": (tamper_weights, "changed or damaged"),
    "score table edited": (edit_scores, "are not those of the decision"),
    "policy changed": (loosen_policy, "policy was changed after the decision"),
    "report swapped": (swap_report, "report in .* is not that of the decision"),
    "decision edited on its way": (raise_a_number, "The gate made no decision .* the decision is not in the store"),
    "calibrations expired": (drop_calibration, "its scores now lead to invalid .*Only 0 of 2 judges may vote"),
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutation", sorted(AFTERWARDS))
def test_a_change_after_the_decision_stops_the_move(
    world: Any, whole_evaluation: Any, tmp_path: Path, mutation: str
) -> None:
    mutate, reason = AFTERWARDS[mutation]
    candidate = world.register("a")
    decision = docket_of(world.project, world.settings, whole_evaluation, candidate).judged(tmp_path)
    assert decision.verdict == "promote"
    with pytest.raises(ValueError, match=reason):
        promote(mutate(world, decision), Workspace(world.project, world.settings), "tester")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_decision_that_the_gate_did_not_make_moves_nothing(
    world: Any, whole_evaluation: Any, evaluation_of: Any, tmp_path: Path
) -> None:
    """A bad candidate was held; its decision is copied with the word `promote`, beside the store and then into it."""
    candidate = world.register("a")
    worse = evaluation_of({"taste_a": -0.6, "taste_b": -0.5}, STILL)
    decision = docket_of(world.project, world.settings, worse, candidate).judged(tmp_path)
    assert decision.verdict == "hold"
    forged = decision.model_copy(update={"verdict": "promote", "reasons": ()})
    with pytest.raises(ValueError, match=r"The gate made no decision .* the decision is not in the store"):
        promote(forged, Workspace(world.project, world.settings), "tester")
    tags = registry.version_tags(world.settings, world.project.name, candidate.version) or {}
    assert "gate.verdict" not in tags, "a decision that the gate did not make is not recorded on the version either"
    with pytest.raises(ValueError, match="the decision's verdict is promote, but its scores now lead to hold"):
        promote(world.kept(forged), Workspace(world.project, world.settings), "tester")
    assert ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings)) == ()
    assert "champion" not in registry.aliases(world.settings, world.project.name)
