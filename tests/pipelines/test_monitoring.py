"""Questions about a stream of pairs that really went through ingest, and about tables made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import monitoring
from pipelines.contracts import CandidateVersion
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.snapshot import accepted_reports, build_snapshot
from pipelines.intake.validation import validate
from pipelines.project import Project
from pipelines.settings import Settings
from pipelines.watch_contracts import MonitorFinding, MonitorReport

# Of what great_expectations imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def version(snapshot_uri: str = "", snapshot_digest: str = "5" * 64) -> CandidateVersion:
    return CandidateVersion(
        model="tiny",
        version=3,
        kind="lora",
        weights_digest="ab" * 32,
        weights_uri="",
        spec_digest="1" * 64,
        base_digest="2" * 64,
        snapshot_digest=snapshot_digest,
        snapshot_uri=snapshot_uri,
        trained_on=(),
        run_id="",
    )


def take_in(project: Project, settings: Settings) -> None:
    for shard in list_source_shards(project, settings):
        validate(ingest(shard, project, settings), project, settings)


def with_monitor(project: Project, **changes: Any) -> Project:
    return project.model_copy(update={"monitor": project.monitor.model_copy(update=changes)})


@pytest.fixture
def later(
    tiny_project: Project, settings: Settings, tiny_row: Callable[..., Any], tiny_pairs: Callable[..., Path]
) -> tuple[Project, CandidateVersion]:
    """A champion trained on a first shard of 20 pairs, and a second shard of 20 from another generator."""
    tiny_pairs([tiny_row(number) for number in range(20)])
    take_in(tiny_project, settings)
    snapshot = build_snapshot(accepted_reports(tiny_project, settings), tiny_project, settings)
    fresh = [
        tiny_row(number, model_0="tiny/3", model_1="other", label_0=float(number < 25), label_1=float(number >= 25))
        for number in range(20, 40)
    ]
    tiny_pairs([tiny_row(0), *fresh], "part-1.parquet")
    take_in(tiny_project, settings)
    return with_monitor(tiny_project, minimum_fresh_pairs=10), version(snapshot.uri, snapshot.content_digest)


def test_fresh_pairs_are_those_of_other_batches_less_known_ones(
    later: tuple[Project, CandidateVersion], settings: Settings
) -> None:
    project, champion = later
    incoming = monitoring.read_incoming(project, settings, champion)
    assert incoming.reference is not None
    assert (incoming.reference.num_rows, len(incoming.fresh_ids)) == (20, 20)
    assert not incoming.fresh_ids & set(incoming.reference["pair_id"].to_pylist())
    base = monitoring.read_incoming(project, settings, None)
    assert (base.reference, len(base.fresh_ids)) == (None, 40)


def test_people_who_prefer_others_and_a_new_generator_ask_for_retraining(
    later: tuple[Project, CandidateVersion], settings: Settings
) -> None:
    """The champion's images won 5 of 20: the upper bound is 0.47."""
    project, champion = later
    incoming = monitoring.read_incoming(project, settings, champion)
    preference = monitoring.preference_finding(project, champion, incoming.fresh)
    assert (preference.measured, preference.status) == (0.25, "retrain")
    assert "5 wins, 0 ties, 15 losses" in preference.explanation
    drifts = {finding.name: finding for finding in monitoring.drift_findings(project, incoming)}
    assert drifts["drift:generator"].status == "retrain"
    assert drifts["drift:width"].status == "ok"
    patient = with_monitor(project, minimum_fresh_pairs=21)
    assert monitoring.preference_finding(patient, champion, incoming.fresh).status == "unmeasured"
    assert [f.status for f in monitoring.drift_findings(patient, incoming)] == ["unmeasured"]


def test_the_champion_is_known_by_its_names_on_one_side_only(tiny_project: Project) -> None:
    names = monitoring.champion_names(with_monitor(tiny_project, champion_generators=("prod",)), version())
    assert {"tiny/3", "tiny:3", "models:/tiny/3", "ab" * 32, "ab" * 6, "prod"} == names
    pairs = pa.table(
        {
            "generator_0": ["tiny/3", "other", "prod", "tiny/3", None],
            "generator_1": ["other", "tiny:3", "tiny/3", "x", "y"],
            "preference": [1.0, 1.0, 1.0, 0.5, 1.0],
        }
    )
    assert monitoring.champion_outcomes(pairs, names) == [1.0, 0.0, 0.5]


def test_judges_are_held_to_their_floor_on_fresh_pairs(tiny_project: Project) -> None:
    project = with_monitor(tiny_project, minimum_fresh_pairs=50)

    def rows(right: int, wrong: int) -> list[dict[str, object]]:
        even = {"score_rejected": 0.0, "is_tie": False}
        return [{"score_chosen": 1.0, **even}] * right + [{"score_chosen": -1.0, **even}] * wrong

    ask = monitoring._agreement
    assert ask(project, "judge", rows(70, 30), 0.95).status == "ok"
    assert ask(project, "judge", rows(55, 45), 0.95).status == "ok", "0.55, but not shown to lie below 0.6"
    assert ask(project, "judge", rows(40, 60), 0.95).status == "alarm"
    assert ask(project, "judge", rows(20, 20), 0.95).status == "unmeasured"


def test_a_calibration_that_failed_is_an_alarm(tiny_project: Project, settings: Settings) -> None:
    """Airflow calls the run a success when only a task in its middle failed."""
    [finding] = monitoring.agreement_findings(tiny_project, settings, None, fresh=frozenset({"pair"}))
    assert (finding.name, finding.measured, finding.status) == ("agreement", None, "alarm")
    assert "the calibration failed" in finding.explanation
    assert monitoring.gravest([finding]) == "alarm"


def test_retraining_is_claimed_once_within_the_rate(tiny_project: Project, settings: Settings) -> None:
    def claim(key: str, days: float) -> str:
        return monitoring.claim(tiny_project, settings, ["drift"], key=key, now=NOW + timedelta(days=days))

    assert claim("", 0) == "advised", "only looking claims nothing"
    assert claim("run-1", 0) == "announced"
    assert claim("run-1", 0.1) == "announced", "the retry of a run is no second retraining"
    assert claim("run-2", 6.9) == "held_back"
    assert claim("run-2", 7) == "announced"
    assert claim("", 8) == "held_back"


def test_the_gravest_finding_is_the_outcome() -> None:
    def findings(*statuses: Any) -> list[MonitorFinding]:
        return [MonitorFinding(name="x", measured=None, limit="", status=s, explanation="") for s in statuses]

    assert monitoring.gravest(findings("ok", "unmeasured")) == "ok"
    assert monitoring.gravest(findings("ok", "retrain")) == "retrain"
    assert monitoring.gravest(findings("alarm", "retrain")) == "alarm"


def test_markdown_escapes_what_came_from_outside() -> None:
    finding = MonitorFinding(name="x", measured=0.5, limit="< 1", status="ok", explanation="a | <b>")
    report = MonitorReport(
        project="tiny",
        at=NOW,
        champion_version=3,
        snapshot_digest=None,
        num_fresh_pairs=2,
        findings=(finding,),
        outcome="ok",
        retrain="not_needed",
    )
    assert "| x | 0.500 | < 1 | ok | a \\| &lt;b> |" in monitoring.markdown(report)
