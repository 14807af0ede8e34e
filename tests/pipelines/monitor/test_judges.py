"""The judges' right to vote without a candidate, in the shipped project with records made for the test."""

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from alignment.catalogues.rewards import ClipScore
from alignment.contracts.calibration import (
    AgreementSlice,
    Calibration,
    CalibrationReport,
    CalibrationSpec,
    JudgeCalibration,
    RaterReliability,
)
from alignment.contracts.judges import Judge
from alignment.statistics.human_pairs import JudgedPair, PairFacts, ScoredPair, scores_table
from pipelines.dispatch.requests.judges import judge_of
from pipelines.monitor.judges import judge_states
from pipelines.project.file import Project, load_project
from pipelines.records import calibrations
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


@pytest.fixture
def project() -> Project:
    """The shapes project with an age limit as in production."""
    plain = load_project(SHAPES)
    policy = {"maximum_calibration_age_days": 90, "minimum_calibration_pairs": 100, "calibration_floor": 0.6}
    return plain.model_copy(update={"gate": plain.gate.model_copy(update=policy)})


def agreement(low: float, pairs: int = 400) -> Calibration:
    return Calibration(
        judge="x", num_pairs=pairs, num_human_ties=0, accuracy=low + 0.05, accuracy_low=low, accuracy_high=low + 0.1
    )


def publish(settings: Settings, judge: Judge, *, pairs: int, right: float, at: datetime) -> tuple[str, str]:
    """Write a calibration table with this share of agreement with people; return its folder and sha256."""
    rows = [
        JudgedPair(judge.name, ScoredPair(str(i), 1.0 if i < right * pairs else -1.0, 0.0, False)) for i in range(pairs)
    ]
    facts = {str(i): PairFacts("panel", created_at=at) for i in range(pairs)}
    store = open_store(settings.store_uri, settings)
    uri, buffer = store.uri("calibrations", "reports", f"{judge.name}-{pairs}-{right}-{at:%s}"), BytesIO()
    pq.write_table(scores_table(rows, facts), buffer)
    store.write_bytes(f"{uri}/calibration_scores.parquet", buffer.getvalue())
    return uri, hashlib.sha256(buffer.getvalue()).hexdigest()


def remember(
    project: Project, settings: Settings, judge: Judge, *, pairs: int = 400, right: float = 0.7, **changes: Any
) -> None:
    at = changes.get("newest_pair_at", datetime.now(UTC) - timedelta(days=10))
    uri, digest = publish(settings, judge, pairs=pairs, right=right, at=at)
    fields: dict[str, Any] = {
        "judge": judge,
        "snapshot_digest": "2" * 64,
        "confidence": 0.95,
        "tie_rule": "human_ties_left_out_judge_ties_half",
        "overall": agreement(0.65),
        "slices": (),
        "margin_slope": None,
        "newest_pair_at": at,
    }
    report = CalibrationReport(
        uri=uri,
        spec=CalibrationSpec(judges=(judge,), snapshot_digest="2" * 64),
        scores_digest=digest,
        reliability=RaterReliability(num_shared_pairs=9, num_labels=20, alpha=0.4),
        judges=(JudgeCalibration(**{**fields, **changes}),),
    )
    calibrations.record(report, project.name, open_store(settings.store_uri, settings))


def judges(project: Project, settings: Settings) -> dict[str, Judge]:
    return {own.name: judge_of(Workspace(project, settings), own) for own in project.evaluation.judges}


def test_a_calibrated_judge_may_vote_and_an_unknown_one_may_not(project: Project, settings: Settings) -> None:
    remember(project, settings, judges(project, settings)["taste_a"])
    first, second = judge_states(Workspace(project, settings))
    assert (first.judge, first.may_vote, first.reasons, first.alpha) == ("taste_a", True, (), 0.4)
    assert first.age_days == pytest.approx(10, abs=0.1)
    assert first.shows_60_as == pytest.approx(0.6 * 0.7 + 0.4 * 0.3)
    assert (second.judge, second.may_vote) == ("taste_b", False)
    assert "was never calibrated" in second.reasons[0]


def test_every_reason_against_a_judge_is_listed(project: Project, settings: Settings) -> None:
    old = datetime.now(UTC) - timedelta(days=100)
    remember(project, settings, judges(project, settings)["taste_a"], pairs=50, newest_pair_at=old)
    (state, _) = judge_states(Workspace(project, settings))
    assert [reason.split(":")[0] for reason in state.reasons] == [
        "has a calibration that expired",
        "was checked on 0 human pairs of any generator and not older than 90 days; at least 100 are required",
        "agrees with people too rarely",
    ]


def test_a_record_with_a_pair_from_the_future_gives_no_vote(project: Project, settings: Settings) -> None:
    """A single wrong date must not keep a calibration valid forever."""
    future = datetime.now(UTC) + timedelta(days=1000)
    remember(project, settings, judges(project, settings)["taste_a"], newest_pair_at=future)
    (state, _) = judge_states(Workspace(project, settings))
    assert not state.may_vote
    assert "was checked on 0 human pairs" in state.reasons[0]


def test_a_missing_or_changed_table_gives_no_vote(project: Project, settings: Settings) -> None:
    remember(project, settings, judges(project, settings)["taste_a"])
    (state, _) = judge_states(Workspace(project, settings))
    store, uri = open_store(settings.store_uri, settings), f"{state.report_uri}/calibration_scores.parquet"
    publish_again = store.read_bytes(uri)
    store.delete(uri)
    (state, _) = judge_states(Workspace(project, settings))
    assert "cannot be checked: its calibration table" in state.reasons[0]
    store.write_bytes(uri, publish_again.replace(b"panel", b"other"))
    (state, _) = judge_states(Workspace(project, settings))
    assert state.reasons[0].startswith("cannot be checked")


def test_a_judge_of_the_same_labels_or_the_same_weights_may_not_vote(project: Project, settings: Settings) -> None:
    first, second = project.evaluation.judges
    pupil = first.model_copy(update={"trained_on": ("shapes_pairs",)})
    copy = first.model_copy(update={"name": "copy"})
    evaluation = project.evaluation.model_copy(update={"judges": (pupil, second, copy)})
    changed = project.model_copy(update={"evaluation": evaluation})
    for judge in judges(changed, settings).values():
        remember(changed, settings, judge)
    found = {state.judge: state.reasons for state in judge_states(Workspace(changed, settings))}
    assert found["taste_a"] == ("is not independent of what the project trains: shapes_pairs",)
    assert found["taste_b"] == ()
    assert found["copy"] == ("has the same weights as taste_a, which may not vote",)


def test_one_model_in_two_folders_with_two_settings_has_one_vote(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    first, second = project.evaluation.judges
    shutil.copytree(urlsplit(first.uri).path, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("A copy.")
    copy = first.model_copy(update={"name": "copy", "uri": str(tmp_path / "copy"), "scorer": ClipScore()})
    evaluation = project.evaluation.model_copy(update={"judges": (first, second, copy)})
    changed = project.model_copy(update={"evaluation": evaluation})
    for judge in judges(changed, settings).values():
        remember(changed, settings, judge)
    found = {state.judge: state.reasons for state in judge_states(Workspace(changed, settings))}
    assert (found["taste_a"], found["taste_b"]) == ((), ())
    assert found["copy"] == ("has the same weights as taste_a, which already votes",)


def test_slices_that_are_not_shown_to_exceed_the_floor_are_listed(project: Project, settings: Settings) -> None:
    parts = (
        AgreementSlice(by="source", name="old", agreement=agreement(0.65)),
        AgreementSlice(by="generators", name="new", agreement=agreement(0.52)),
        AgreementSlice(by="generators", name="few", agreement=agreement(0.40, pairs=12)),
    )
    remember(project, settings, judges(project, settings)["taste_a"], slices=parts)
    (state, _) = judge_states(Workspace(project, settings))
    assert state.weak_slices == ("generators new: 0.520 on 400",)
    assert state.may_vote, "slices do not affect the vote"


def test_a_judge_without_weights_is_listed_with_the_reason(project: Project, settings: Settings) -> None:
    section = project.evaluation.judges[0].model_copy(update={"uri": "/nowhere"})
    evaluation = project.evaluation.model_copy(update={"judges": (section,)})
    (state,) = judge_states(Workspace(project.model_copy(update={"evaluation": evaluation}), settings))
    assert state.weights_digest is None
    assert state.reasons[0].startswith("cannot be loaded")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_judges_that_voted_without_a_calibration_record_may_vote(world: Any) -> None:
    """Without an age limit an evaluation measures the agreement itself, and no record is written."""
    candidate = world.register("a")
    workspace = Workspace(world.project, world.settings)
    assert [state.unmeasured for state in judge_states(workspace)] == [True, True]
    real = {section.name: judge_of(workspace, section) for section in world.project.evaluation.judges}
    decision = world.decide(candidate, None)
    assert {check.subject for check in decision.checks if check.kind == "may_vote" and check.passed} == set(real)
    store, uri = workspace.store, f"{decision.evaluation_uri}/manifest.json"
    manifest = json.loads(store.read_bytes(uri))
    for judge in manifest["value"]["spec"]["judges"]:
        judge["weights_digest"] = real[judge["name"]].weights_digest
    store.write_bytes(uri, json.dumps(manifest).encode())
    found = judge_states(workspace)
    assert [(state.may_vote, state.num_pairs, state.reasons) for state in found] == [(True, 120, ())] * 2
    assert {state.report_uri for state in found} == {decision.evaluation_uri}
    aged = world.project.gate.model_copy(update={"maximum_calibration_age_days": 90})
    changed = Workspace(world.project.model_copy(update={"gate": aged}), world.settings)
    assert ["plumbline calibrate" in state.reasons[0] for state in judge_states(changed)] == [True, True]
