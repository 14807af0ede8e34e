"""Monitor checks on pairs that went through ingest, and on tables made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contracts.monitor import MonitorFinding, MonitorReport
from pipelines.contracts.release import CandidateVersion
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.monitor import drift
from pipelines.monitor import report as monitor_report
from pipelines.project.columns import ColumnsSection
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.tracking import registry
from pipelines.workspace import Workspace

# From imports of great_expectations.
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
    for shard in list_source_shards(Workspace(project, settings)):
        validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings))


def with_monitor(project: Project, **changes: Any) -> Project:
    return project.model_copy(update={"monitor": project.monitor.model_copy(update=changes)})


@pytest.fixture
def later(
    tiny_project: Project, settings: Settings, tiny_row: Callable[..., Any], tiny_pairs: Callable[..., Path]
) -> tuple[Project, CandidateVersion]:
    """A champion trained on a first shard of 20 pairs, and a second shard of 20 pairs from another generator."""
    tiny_pairs([tiny_row(number) for number in range(20)])
    take_in(tiny_project, settings)
    snapshot = build_snapshot(accepted_reports(Workspace(tiny_project, settings)), Workspace(tiny_project, settings))
    fresh = [
        tiny_row(number, model_0="tiny/3", model_1="other", label_0=float(number < 25), label_1=float(number >= 25))
        for number in range(20, 40)
    ]
    tiny_pairs([tiny_row(0), *fresh], "part-1.parquet")
    take_in(tiny_project, settings)
    return with_monitor(tiny_project, minimum_fresh_pairs=10), version(snapshot.uri, snapshot.content_digest)


def test_fresh_pairs_are_those_of_other_batches_without_known_ones(
    later: tuple[Project, CandidateVersion], settings: Settings
) -> None:
    project, champion = later
    incoming = monitor_report._read_incoming(Workspace(project, settings), champion)
    assert incoming.reference is not None
    assert (incoming.reference.num_rows, len(incoming.fresh_ids)) == (20, 20)
    assert not incoming.fresh_ids & set(incoming.reference["pair_id"].to_pylist())
    base = monitor_report._read_incoming(Workspace(project, settings), None)
    assert (base.reference, len(base.fresh_ids)) == (None, 40)


def test_a_low_preference_for_the_champion_causes_a_retraining(
    later: tuple[Project, CandidateVersion], settings: Settings
) -> None:
    """The champion's images won 5 of 20: the upper bound is 0.47."""
    project, champion = later
    incoming = monitor_report._read_incoming(Workspace(project, settings), champion)
    preference = monitor_report._preference_finding(project, champion, incoming.fresh)
    assert (preference.measured, preference.status) == (0.25, "retrain")
    assert "5 wins, 0 ties, 15 losses" in preference.explanation
    patient = with_monitor(project, minimum_fresh_pairs=21)
    assert monitor_report._preference_finding(patient, champion, incoming.fresh).status == "unmeasured"
    assert [f.status for f in monitor_report._drift_findings(patient, incoming)] == ["unmeasured"]


def facts(num_pairs: int, *, generators: tuple[str, str], source: str = "archive", words: int = 3) -> pa.Table:
    """Pairs with the same images, prompts and verdicts, except for the arguments."""
    columns: dict[str, object] = {
        "prompt": [" ".join(["fox"] * words)] * num_pairs,
        "source": [source] * num_pairs,
        "preference": [1.0] * num_pairs,
    }
    for side in (0, 1):
        columns |= {f"{name}_{side}": [64.0] * num_pairs for name in drift.NUMBERS}
        columns |= {f"format_{side}": ["PNG"] * num_pairs, f"generator_{side}": [generators[side]] * num_pairs}
    return pa.table(columns)


def test_pairs_of_the_champions_images_do_not_cause_a_retraining(tiny_project: Project) -> None:
    """The usual case after a promotion: the champion is trained on the base's images and judged on its own."""
    archive = facts(300, generators=("base", "tiny/2"))
    for now in (("tiny/3", "base"), ("tiny/3", "tiny/3")):
        fresh = facts(300, generators=now, source="feedback")
        found = monitor_report._drift_findings(tiny_project, monitor_report._Incoming(archive, fresh))
        assert {finding.status for finding in found} == {"ok"}
        moved = {finding.name: finding for finding in found}
        generator, source = moved["drift:generator"], moved["drift:source"]
        assert (generator.limit, source.limit) == ("for information", "for information")
        assert generator.explanation.startswith("generator drifted: chi-squared effect"), "it is still reported"
        assert moved["drift:width"].limit == "< 0.2"


def test_drift_of_prompts_causes_a_retraining(tiny_project: Project) -> None:
    archive = pa.concat_tables([facts(20, generators=("a", "b"), words=words) for words in range(1, 11)])
    fresh = pa.concat_tables([facts(20, generators=("a", "b"), words=words) for words in range(11, 21)])
    found = monitor_report._drift_findings(tiny_project, monitor_report._Incoming(archive, fresh))
    statuses = {finding.name: finding.status for finding in found}
    assert statuses.pop("drift:prompt_words") == "retrain"
    assert set(statuses.values()) == {"ok"}


def test_the_champion_is_known_by_its_names_on_one_side_only(tiny_project: Project) -> None:
    names = monitor_report._champion_names(with_monitor(tiny_project, champion_generators=("prod",)), version())
    assert {"tiny/3", "tiny:3", "models:/tiny/3", "ab" * 32, "ab" * 6, "prod"} == names
    pairs = pa.table(
        {
            "generator_0": ["tiny/3", "other", "prod", "tiny/3", None],
            "generator_1": ["other", "tiny:3", "tiny/3", "x", "y"],
            "preference": [1.0, 1.0, 1.0, 0.5, 1.0],
        }
    )
    assert monitor_report._champion_outcomes(pairs, names) == [1.0, 0.0, 0.5]


def test_agreement_on_fresh_pairs_is_compared_with_the_floor(tiny_project: Project) -> None:
    project = with_monitor(tiny_project, minimum_fresh_pairs=50)

    def rows(right: int, wrong: int) -> list[dict[str, object]]:
        even = {"score_rejected": 0.0, "is_tie": False}
        return [{"score_chosen": 1.0, **even}] * right + [{"score_chosen": -1.0, **even}] * wrong

    ask = monitor_report._agreement
    assert ask(project, "judge", rows(70, 30), 0.95).status == "ok"
    assert ask(project, "judge", rows(55, 45), 0.95).status == "ok", "0.55, but not shown to lie below 0.6"
    assert ask(project, "judge", rows(40, 60), 0.95).status == "alarm"
    assert ask(project, "judge", rows(20, 20), 0.95).status == "unmeasured"


def test_a_calibration_that_failed_is_an_alarm(tiny_project: Project, settings: Settings) -> None:
    """Airflow reports a run as a success when only a task in its middle failed."""
    [finding] = monitor_report._agreement_findings(Workspace(tiny_project, settings), None, fresh=frozenset({"pair"}))
    assert (finding.name, finding.measured, finding.status) == ("agreement", None, "alarm")
    assert "the calibration failed" in finding.explanation
    assert monitor_report._most_severe([finding]) == "alarm"


def test_retraining_is_claimed_once_within_the_rate(tiny_project: Project, settings: Settings) -> None:
    def turn(key: str, days: float) -> str:
        last = monitor_report._last_announced(Workspace(tiny_project, settings))[1]
        return monitor_report._retrain_decision(tiny_project, last, key=key, now=NOW + timedelta(days=days))

    def claim(key: str, days: float) -> bool:
        return monitor_report.claim(
            Workspace(tiny_project, settings), ["drift"], key=key, now=NOW + timedelta(days=days)
        )

    assert turn("", 0) == "advised", "a run without a key claims nothing"
    assert turn("run-1", 0) == "due"
    assert claim("run-1", 0)
    assert (turn("run-1", 0.1), claim("run-1", 0.1)) == ("due", True), "a retry of a run is not a second retraining"
    assert (turn("run-2", 6.9), claim("run-2", 6.9)) == ("held_back", False)
    assert (turn("run-2", 7), claim("run-2", 7)) == ("due", True)
    assert turn("", 8) == "held_back"
    number, last = monitor_report._last_announced(Workspace(tiny_project, settings))
    assert last is not None
    assert (number, last.key, last.reasons) == (2, "run-2", ("drift",))


def test_an_announced_retraining_is_taken_by_one_run(tiny_project: Project, settings: Settings) -> None:
    def announce(key: str, days: float) -> bool:
        return monitor_report.claim(
            Workspace(tiny_project, settings), ["drift"], key=key, now=NOW + timedelta(days=days)
        )

    def take(key: str, days: float) -> bool:
        return monitor_report.take(Workspace(tiny_project, settings), key=key, now=NOW + timedelta(days=days))

    assert not take("train-1", 0), "nothing was announced"
    assert announce("monitor-1", 0)
    assert take("train-1", 1)
    assert take("train-1", 2), "a retry of the run that took it"
    assert not take("train-2", 2)
    assert announce("monitor-2", 8)
    assert take("train-2", 9)
    assert announce("monitor-3", 20)
    assert not take("train-3", 28), "the monitor announces a retraining again while it is needed"


def test_a_report_that_was_not_announced_does_not_use_up_the_rate(
    later: tuple[Project, CandidateVersion], tracked: Settings
) -> None:
    """MLflow may fail after the report is written, in every try of a run. The next run then announces."""
    project, champion = later

    def ask(key: str) -> MonitorReport:
        return monitor_report.monitor(
            Workspace(project, tracked), champion=champion, calibration=None, announce_key=key
        )

    assert ask("run-1").retrain == "due"
    report = ask("run-2")
    assert report.retrain == "due"
    assert "5 wins, 0 ties, 15 losses" in report.reasons_to_retrain[0]
    assert monitor_report.claim(Workspace(project, tracked), report.reasons_to_retrain, key="run-2", now=report.at)
    assert (ask("run-3").retrain, ask("").retrain) == ("held_back", "held_back")


def test_the_most_severe_finding_is_the_outcome() -> None:
    def findings(*statuses: Any) -> list[MonitorFinding]:
        return [MonitorFinding(name="x", measured=None, limit="", status=s, explanation="") for s in statuses]

    assert monitor_report._most_severe(findings("ok", "unmeasured")) == "ok"
    assert monitor_report._most_severe(findings("ok", "retrain")) == "retrain"
    assert monitor_report._most_severe(findings("alarm", "retrain")) == "alarm"


def test_markdown_escapes_names_from_outside() -> None:
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
    assert "| x | 0.500 | < 1 | ok | a \\| &lt;b> |" in monitor_report.markdown(report)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_there_is_something_to_monitor_once_pairs_or_a_champion_are_there(world: Any, monkeypatch: Any) -> None:
    assert not monitor_report.has_anything_to_monitor(Workspace(world.project, world.settings))
    found = [SimpleNamespace(is_unpaired=True)]
    monkeypatch.setattr(monitor_report, "accepted_reports", lambda *_: found)
    assert not monitor_report.has_anything_to_monitor(Workspace(world.project, world.settings)), "likes alone"
    found.append(SimpleNamespace(is_unpaired=False))
    assert monitor_report.has_anything_to_monitor(Workspace(world.project, world.settings))
    monkeypatch.undo()
    world.register("a")
    registry.set_alias(world.settings, world.project.name, "champion", 1)
    assert monitor_report.has_anything_to_monitor(Workspace(world.project, world.settings)), (
        "a champion, and the store lost"
    )


def test_single_images_are_no_pairs_and_votes_may_be_on_some(
    tiny_project: Project, settings: Settings, tiny_pairs: Any, tiny_row: Any, tiny_image: Any
) -> None:
    tiny_pairs([tiny_row(number) for number in range(3)])
    folder = tiny_project.path.parent
    (folder / "votes").mkdir()
    (folder / "likes").mkdir()
    vote = {"prompt": "x", "left": tiny_image(1), "right": tiny_image(2), "share": 0.25}
    pq.write_table(pa.Table.from_pylist([vote]), folder / "votes/a.parquet")
    like = {"prompt": "y", "image": tiny_image(3), "liked": True}
    pq.write_table(pa.Table.from_pylist([like]), folder / "likes/a.parquet")
    columns = ColumnsSection(image_0="left", image_1="right", preference="share")
    sources = [
        SourceSection(name="votes", kind="table", uri=str(folder / "votes"), licence="x", columns=columns),
        SourceSection(name="likes", kind="likes", uri=str(folder / "likes"), licence="x"),
    ]
    project = tiny_project.model_copy(update={"sources": (*tiny_project.sources, *sources)})
    take_in(project, settings)
    fresh = monitor_report._read_incoming(Workspace(project, settings), None).fresh
    assert fresh is not None
    assert sorted(fresh["source"].to_pylist()) == ["tiny_pairs"] * 3 + ["votes"]
