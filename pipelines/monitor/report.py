"""The monitor: a report on the champion and the pairs that arrived since its training. It moves no alias.

The findings are combined into one outcome: `alarm` needs a person, `retrain` needs a new candidate. Both can occur
together; the outcome is then `alarm`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.calibration import CalibrationReport
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import CALIBRATION_SCORES_FILE
from alignment.statistics.calibration import calibrate
from alignment.statistics.comparison import win_rate_interval
from pipelines.contracts.monitor import FindingStatus, MonitorFinding, MonitorReport, RetrainEntry
from pipelines.contracts.pairs import ValidationReport
from pipelines.contracts.release import CandidateVersion
from pipelines.intake.accepted import accepted_reports, fetch_accepted
from pipelines.intake.pairs import read_light
from pipelines.intake.scratch import scratch_dir
from pipelines.monitor import drift, judges
from pipelines.project.file import Project
from pipelines.records.monitor_reports import save_report
from pipelines.records.series import Series, series_of_json, series_of_models
from pipelines.records.withdrawals import active_withdrawals
from pipelines.release.champion.state import read_state
from pipelines.workspace import Workspace

DIGEST_DIGITS = 12
"""Number of leading digits of the weights' digest by which a pair may name the champion as generator."""


@dataclass(frozen=True)
class _Incoming:
    """Accepted pairs without images: those that the champion was trained on, and fresh ones."""

    reference: pa.Table | None
    """Pairs that the champion was trained on; None if their batches are gone or the base model is the champion."""
    fresh: pa.Table | None
    """Pairs that arrived since; None if there are none."""

    @property
    def fresh_ids(self) -> frozenset[str]:
        """The pair_id of every fresh pair."""
        return frozenset() if self.fresh is None else frozenset(self.fresh["pair_id"].to_pylist())


def monitor(
    workspace: Workspace,
    *,
    champion: CandidateVersion | None,
    calibration: CalibrationReport | None,
    announce_key: str = "",
) -> MonitorReport:
    """Make every check and store the report. With an `announce_key` it also decides if a retraining may be announced.

    `calibration` is of the judges on all accepted pairs; None if it failed, which is an alarm. The retraining is not
    claimed here: a failure between the report and the announcement must not use up the rate.
    """
    project = workspace.project
    now = datetime.now(UTC)
    incoming = _read_incoming(workspace, champion)
    findings = [
        _registry_finding(workspace),
        _judges_finding(workspace),
        *_agreement_findings(workspace, calibration, fresh=incoming.fresh_ids),
        _preference_finding(project, champion, incoming.fresh),
        *_drift_findings(project, incoming),
    ]
    wanted = any(finding.status == "retrain" for finding in findings)
    last = _last_announced(workspace)[1]
    report = MonitorReport(
        project=project.name,
        at=now,
        champion_version=champion.version if champion else None,
        snapshot_digest=champion.snapshot_digest if champion else None,
        num_fresh_pairs=len(incoming.fresh_ids),
        findings=tuple(findings),
        outcome=_most_severe(findings),
        retrain=_retrain_decision(project, last, key=announce_key, now=now) if wanted else "not_needed",
    )
    return save_report(workspace.store, report)


def has_anything_to_monitor(workspace: Workspace) -> bool:
    """Return False before the first pair was accepted and the first version promoted."""
    if any(not report.is_unpaired for report in accepted_reports(workspace, workspace.project.snapshot.sources)):
        return True
    standing = read_state(workspace.project.name, workspace.settings)
    return bool(standing.entries or standing.champion is not None or standing.problem)


def _most_severe(findings: Sequence[MonitorFinding]) -> Literal["ok", "retrain", "alarm"]:
    """Return the most severe status: alarm, then retrain, then ok. Unmeasured findings are ignored."""
    statuses = {finding.status for finding in findings}
    return "alarm" if "alarm" in statuses else "retrain" if "retrain" in statuses else "ok"


# --- evidence -------------------------------------------------------------------------------------------------------


def _read_incoming(workspace: Workspace, champion: CandidateVersion | None) -> _Incoming:
    """Divide the accepted pairs by membership of their batch in the champion's snapshot. Known pairs are not fresh."""
    store = workspace.store
    manifest = store.read_manifest(champion.snapshot_uri) if champion and champion.snapshot_uri else None
    trained_on = set(DatasetSnapshot.model_validate(manifest.value).batch_digests) if manifest else set[str]()
    reports = accepted_reports(workspace, workspace.project.snapshot.sources)
    reference = _read([report for report in reports if report.batch_digest in trained_on], workspace)
    fresh = _read([report for report in reports if report.batch_digest not in trained_on], workspace)
    if reference is not None and fresh is not None:
        known = set(reference["pair_id"].to_pylist())
        fresh = fresh.filter(pa.array([pair not in known for pair in fresh["pair_id"].to_pylist()]))
    return _Incoming(reference, fresh if fresh is not None and fresh.num_rows else None)


def _read(reports: Sequence[ValidationReport], workspace: Workspace) -> pa.Table | None:
    tables, withdrawals = [], active_withdrawals(workspace.store)
    for report in reports:
        with scratch_dir(workspace.settings) as scratch:
            if not report.is_unpaired:
                tables.append(read_light(fetch_accepted(workspace.store, report.uri, scratch, withdrawals)))
    # Only sources with votes have their columns.
    return pa.concat_tables(tables, promote_options="default") if tables else None


# --- checks ---------------------------------------------------------------------------------------------------------


def _registry_finding(workspace: Workspace) -> MonitorFinding:
    """Check that the champion alias agrees with the ledger."""
    try:
        standing = read_state(workspace.project.name, workspace.settings)
        problem = standing.problem or (
            "The last move of the champion was interrupted. Run the same promote or rollback again."
            * standing.unfinished
        )
    except ValueError as error:
        problem = str(error)
    text = problem or "Alias and ledger agree on the champion."
    return _finding("registry", None, "alias == ledger", status="alarm" if problem else "ok", text=text)


def _judges_finding(workspace: Workspace) -> MonitorFinding:
    """Check that enough judges may vote for a candidate to be promoted."""
    states = judges.judge_states(workspace)
    voting = sum(state.may_vote for state in states)
    needed = workspace.project.gate.voting_judges
    text = f"{voting} of {len(states)} judges may vote; the gate requires {needed}."
    for state in states:
        if not state.may_vote:
            text += f" {state.judge} {'; '.join(state.reasons).rstrip('.')}."
    status: FindingStatus = "ok" if voting >= needed else "alarm"
    return _finding("voting_judges", float(voting), f">= {needed}", status=status, text=text)


def _agreement_findings(
    workspace: Workspace, report: CalibrationReport | None, *, fresh: frozenset[str]
) -> list[MonitorFinding]:
    """Check each judge against the fresh human pairs of the calibration split.

    Alarm when the agreement is shown to be below the floor, or when there is no report. The split has only some of the
    fresh pairs; the others are for training.
    """
    if report is None:
        # A monitor that could not measure must not report ok: without this finding the DAG run would succeed.
        text = "The judges could not be scored on the fresh pairs: the calibration failed. See its log."
        return [_finding("agreement", None, "", status="alarm", text=text)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CALIBRATION_SCORES_FILE
        path.write_bytes(workspace.store.read_bytes(f"{report.uri}/{CALIBRATION_SCORES_FILE}"))
        rows = [row for row in pq.read_table(path).to_pylist() if row["pair_id"] in fresh]
    return [
        _agreement(workspace.project, judge.name, [r for r in rows if r["judge"] == judge.name], report.spec.confidence)
        for judge in report.spec.judges
    ]


def _agreement(project: Project, judge: str, rows: Sequence[dict[str, object]], confidence: float) -> MonitorFinding:
    floor, least = project.gate.calibration_floor, project.monitor.minimum_fresh_pairs
    name, limit = f"agreement:{judge}", f"not below {floor:g}"
    if sum(not row["is_tie"] for row in rows) < least:
        text = f"{len(rows)} fresh human pairs are too few to check {judge}; {least} are needed."
        return _finding(name, None, limit, status="unmeasured", text=text)
    scores: dict[str, list[float]] = {
        side: [float(row[f"score_{side}"]) for row in rows]  # type: ignore[arg-type]  # a column of float64
        for side in ("chosen", "rejected")
    }
    try:
        found = calibrate(
            judge,
            score_chosen=scores["chosen"],
            score_rejected=scores["rejected"],
            is_human_tie=[bool(row["is_tie"]) for row in rows],
            confidence=confidence,
        )
    except ValueError as error:
        return _finding(name, None, limit, status="alarm", text=str(error))
    lost = found.accuracy_high < floor
    text = (
        f"{judge} agrees with people on {found.accuracy:.3f} of {found.num_pairs} fresh pairs, between"
        f" {found.accuracy_low:.3f} and {found.accuracy_high:.3f}."
    )
    return _finding(name, found.accuracy, limit, status="alarm" if lost else "ok", text=text)


def _preference_finding(project: Project, champion: CandidateVersion | None, fresh: pa.Table | None) -> MonitorFinding:
    """Measure how often people prefer the champion's images, in fresh pairs with the champion on one side only."""
    least, limit = project.monitor.minimum_fresh_pairs, project.monitor.minimum_champion_win_rate
    outcomes = [] if fresh is None else _champion_outcomes(fresh, _champion_names(project, champion))
    required = f"not below {limit:g}"
    if len(outcomes) < least:
        text = f"{len(outcomes)} fresh pairs compare the champion's images with others; {least} are needed."
        return _finding("champion_preference", None, required, status="unmeasured", text=text)
    wins, ties, losses = (outcomes.count(value) for value in (1.0, 0.5, 0.0))
    low, high = win_rate_interval(wins, ties, losses, confidence=project.evaluation.confidence)
    rate = sum(outcomes) / len(outcomes)
    text = (
        f"People prefer the champion's images in {rate:.3f} of {len(outcomes)} fresh pairs, between {low:.3f} and"
        f" {high:.3f} ({wins} wins, {ties} ties, {losses} losses)."
    )
    status: FindingStatus = "retrain" if high < limit else "ok"
    return _finding("champion_preference", rate, required, status=status, text=text)


def _champion_names(project: Project, champion: CandidateVersion | None) -> frozenset[str]:
    """Return the generator names by which pairs may refer to the champion."""
    own = set(project.monitor.champion_generators)
    if champion is not None:
        version, digest = champion.version, champion.weights_digest
        own |= {f"{project.name}/{version}", f"{project.name}:{version}", f"models:/{project.name}/{version}"}
        own |= {digest, digest[:DIGEST_DIGITS]}
    return frozenset(own)


def _champion_outcomes(pairs: pa.Table, names: frozenset[str]) -> list[float]:
    """Return 1, 0.5 or 0 per pair with the champion on exactly one side. `preference` 1 means image 0 was preferred."""
    columns = (pairs[name].to_pylist() for name in ("generator_0", "generator_1", "preference"))
    return [
        preference if first in names else 1 - preference
        for first, second, preference in zip(*columns, strict=True)
        if (first in names) != (second in names)
    ]


def _drift_findings(project: Project, incoming: _Incoming) -> list[MonitorFinding]:
    """Compare each column of facts with the pairs that the champion was trained on."""
    least, limit = project.monitor.minimum_fresh_pairs, project.monitor.maximum_drift
    if incoming.reference is None or incoming.fresh is None or incoming.fresh.num_rows < least:
        what = "The champion's pairs are not available" if incoming.reference is None else "Too few fresh pairs"
        text = f"{what}; drift is measured from {least} fresh pairs."
        return [_finding("drift", None, f"< {limit:g}", status="unmeasured", text=text)]
    return [_drift(project, moved) for moved in drift.compare(incoming.reference, incoming.fresh)]


def _drift(project: Project, moved: drift.Drift) -> MonitorFinding:
    """Ask for a retraining when a column drifted, unless it is about the origin of the pairs.

    After a promotion people judge images of the new champion, which were in none of its training pairs. If this drift
    counted, every promotion would cause another retraining.
    """
    drifted = moved.effect >= project.monitor.maximum_drift and moved.p_value <= project.monitor.drift_level
    counts = moved.column not in drift.PROVENANCE
    text = (
        f"{moved.column} {'drifted' if drifted else 'did not drift'}: {moved.test.replace('_', '-')} effect"
        f" {moved.effect:.3f}, p = {moved.p_value:.2g} ({moved.num_reference} values before, {moved.num_fresh} now)."
    )
    return _finding(
        f"drift:{moved.column}",
        moved.effect,
        f"< {project.monitor.maximum_drift:g}" if counts else "for information",
        status="retrain" if drifted and counts else "ok",
        text=text,
    )


def _finding(name: str, measured: float | None, limit: str, *, status: FindingStatus, text: str) -> MonitorFinding:
    return MonitorFinding(name=name, measured=measured, limit=limit, status=status, explanation=text)


# --- retraining -----------------------------------------------------------------------------------------------------


def _retrain_decision(
    project: Project, last: RetrainEntry | None, *, key: str, now: datetime
) -> Literal["advised", "due", "held_back"]:
    """Decide if the run with this key may announce a retraining after the `last` one; without a key it is advised."""
    if last is not None and key and last.key == key:
        return "due"
    if last is not None and now - last.at < timedelta(days=project.monitor.retrain_every_days):
        return "held_back"
    return "due" if key else "advised"


def claim(workspace: Workspace, reasons: Sequence[str], *, key: str, now: datetime) -> bool:
    """Claim the retraining just before announcing it; return False when another run claimed it.

    The claim is in the store, so only one of two runs gets it. A retry with the same key gets it again.
    """
    number, last = _last_announced(workspace)
    if _retrain_decision(workspace.project, last, key=key, now=now) != "due":
        return False
    if last is not None and last.key == key:
        return True
    entry = RetrainEntry(at=now, key=key, reasons=tuple(reasons))
    return _retrains(workspace).create(number + 1, entry)


def take(workspace: Workspace, *, key: str, now: datetime) -> bool:
    """Assign the newest announced retraining to the training run `key`; return False when another run has it.

    The mark is in the store, so the next run gets a retraining whose event Airflow did not deliver, and only one run
    gets it. A retry with the same key gets it again. An announcement older than `retrain_every_days` (at least one day)
    has expired; the monitor announces a retraining again while it is needed.
    """
    number, last = _last_announced(workspace)
    if last is None or now - last.at > timedelta(days=max(workspace.project.monitor.retrain_every_days, 1)):
        return False
    taken = series_of_json(workspace.store, "monitor", workspace.project.name, "retrains_taken")
    mark = {"key": key, "at": now.isoformat()}
    return taken.create(number, mark) or bool(taken.read(number)["key"] == key)


def _last_announced(workspace: Workspace) -> tuple[int, RetrainEntry | None]:
    """Read the number and entry of the newest announced retraining; 0 and None if there is none."""
    return _retrains(workspace).last()


def _retrains(workspace: Workspace) -> Series[RetrainEntry]:
    store = workspace.store
    return series_of_models(store, "monitor", workspace.project.name, "retrains", model=RetrainEntry)


# --- for people -----------------------------------------------------------------------------------------------------


def markdown(report: MonitorReport) -> str:
    """Format the report as a Markdown table."""
    champion = "the base model" if report.champion_version is None else f"version {report.champion_version}"
    lines = [
        f"# {report.project}: {report.outcome}",
        "",
        f"{champion}, {report.num_fresh_pairs} fresh pairs, {report.at:%Y-%m-%d %H:%M} UTC. Retraining:"
        f" {report.retrain.replace('_', ' ')}.",
        "",
        "| check | measured | limit | status | explanation |",
        "|---|---|---|---|---|",
    ]
    for finding in report.findings:
        measured = "" if finding.measured is None else f"{finding.measured:.3f}"
        # Names of sources and formats come from outside and may contain markup.
        text = finding.explanation.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {finding.name} | {measured} | {finding.limit} | {finding.status} | {text} |")
    return "\n".join([*lines, ""])
