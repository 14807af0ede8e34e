"""The monitor stage: the champion against what came in since it was trained. It moves nothing; it reports.

Findings become one outcome: `alarm` asks for a person, `retrain` for a new candidate, and both may be wanted at once.
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
from pipelines.intake.pairs import ACCEPTED_FILE, read_light
from pipelines.intake.snapshot import accepted_reports
from pipelines.monitor import drift, judges
from pipelines.project.file import Project
from pipelines.release.champion.state import read_state
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

DIGEST_DIGITS = 12
"""A generator may call the champion by so many digits of its weights' digest."""


@dataclass(frozen=True)
class Incoming:
    """Accepted pairs, without images: those that the champion was trained on, and those it was not."""

    reference: pa.Table | None
    """None where its batches are no longer in the index, or the base model is served."""
    fresh: pa.Table | None
    """None where nothing came in since."""

    @property
    def fresh_ids(self) -> frozenset[str]:
        """pair_id of every fresh pair."""
        return frozenset() if self.fresh is None else frozenset(self.fresh["pair_id"].to_pylist())


def monitor(
    workspace: Workspace,
    *,
    champion: CandidateVersion | None,
    calibration: CalibrationReport | None,
    announce_key: str = "",
) -> MonitorReport:
    """Ask every question and keep the report; with an `announce_key` it says whether a retraining may be announced.

    `calibration` is of the judges on everything accepted so far; None where it failed, which is an alarm. Nothing is
    claimed here: what fails between the report and the announcement must not use up the rate.
    """
    project = workspace.project
    now = datetime.now(UTC)
    incoming = read_incoming(workspace, champion)
    findings = [
        registry_finding(workspace),
        judges_finding(workspace),
        *agreement_findings(workspace, calibration, fresh=incoming.fresh_ids),
        preference_finding(project, champion, incoming.fresh),
        *drift_findings(project, incoming),
    ]
    wanted = any(finding.status == "retrain" for finding in findings)
    last = last_announced(workspace)[1]
    report = MonitorReport(
        project=project.name,
        at=now,
        champion_version=champion.version if champion else None,
        snapshot_digest=champion.snapshot_digest if champion else None,
        num_fresh_pairs=len(incoming.fresh_ids),
        findings=tuple(findings),
        outcome=gravest(findings),
        retrain=turn(project, last, key=announce_key, now=now) if wanted else "not_needed",
    )
    store = workspace.store
    uri = store.uri("monitor", project.name, f"{now:%Y%m%dT%H%M%SZ}-{report.digest[:DIGEST_DIGITS]}.json")
    report = report.model_copy(update={"uri": uri})
    store.write_bytes(uri, report.model_dump_json(indent=1).encode())
    return report


def has_anything_to_monitor(workspace: Workspace) -> bool:
    """Return False before the first pair was accepted and the first version promoted."""
    if accepted_reports(workspace, workspace.project.snapshot.sources):
        return True
    standing = read_state(workspace.project.name, workspace.settings)
    return bool(standing.entries or standing.champion is not None or standing.problem)


def gravest(findings: Sequence[MonitorFinding]) -> Literal["ok", "retrain", "alarm"]:
    """Alarm before retrain before ok; what was not measured changes nothing."""
    statuses = {finding.status for finding in findings}
    return "alarm" if "alarm" in statuses else "retrain" if "retrain" in statuses else "ok"


# --- evidence -------------------------------------------------------------------------------------------------------


def read_incoming(workspace: Workspace, champion: CandidateVersion | None) -> Incoming:
    """Accepted pairs by whether their batch is in the champion's snapshot; a pair that is in both is not fresh."""
    store = workspace.store
    manifest = store.read_manifest(champion.snapshot_uri) if champion and champion.snapshot_uri else None
    trained_on = set(DatasetSnapshot.model_validate(manifest.value).batch_digests) if manifest else set[str]()
    reports = accepted_reports(workspace, workspace.project.snapshot.sources)
    reference = _read([report for report in reports if report.batch_digest in trained_on], workspace.store)
    fresh = _read([report for report in reports if report.batch_digest not in trained_on], workspace.store)
    if reference is not None and fresh is not None:
        known = set(reference["pair_id"].to_pylist())
        fresh = fresh.filter(pa.array([pair not in known for pair in fresh["pair_id"].to_pylist()]))
    return Incoming(reference, fresh if fresh is not None and fresh.num_rows else None)


def _read(reports: Sequence[ValidationReport], store: Store) -> pa.Table | None:
    tables = []
    for report in reports:
        with tempfile.TemporaryDirectory() as scratch:
            store.fetch_folder(report.uri, Path(scratch) / "batch", only=[ACCEPTED_FILE])
            tables.append(read_light(Path(scratch) / "batch" / ACCEPTED_FILE))
    return pa.concat_tables(tables) if tables else None


# --- questions ------------------------------------------------------------------------------------------------------


def registry_finding(workspace: Workspace) -> MonitorFinding:
    """Whether the alias is where the ledger put it."""
    try:
        standing = read_state(workspace.project.name, workspace.settings)
        problem = standing.problem or (
            "The last move of the champion was cut short. Run the same promote or rollback again." * standing.unfinished
        )
    except ValueError as error:
        problem = str(error)
    says = problem or "Alias and ledger agree on the champion."
    return _finding("registry", None, "alias == ledger", status="alarm" if problem else "ok", says=says)


def judges_finding(workspace: Workspace) -> MonitorFinding:
    """Whether enough judges may vote for a candidate to be promoted at all."""
    standings = judges.standings(workspace)
    voting = sum(standing.may_vote for standing in standings)
    needed = workspace.project.gate.voting_judges
    says = f"{voting} of {len(standings)} judges may vote; the gate needs {needed}."
    for standing in standings:
        if not standing.may_vote:
            says += f" {standing.judge} {'; '.join(standing.reasons).rstrip('.')}."
    status: FindingStatus = "ok" if voting >= needed else "alarm"
    return _finding("voting_judges", float(voting), f">= {needed}", status=status, says=says)


def agreement_findings(
    workspace: Workspace, report: CalibrationReport | None, *, fresh: frozenset[str]
) -> list[MonitorFinding]:
    """Each judge against the fresh human pairs of the calibration split.

    Alarm when it is shown to be below the floor, or when there is no report to show it. The split has only a part of
    the fresh pairs; the others are trained on.
    """
    if report is None:
        # A watch that cannot look must not report that all is well: the DAG run would be a success without it.
        says = "The judges could not be scored on the fresh pairs: the calibration failed, its log says why."
        return [_finding("agreement", None, "", status="alarm", says=says)]
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
        says = f"{len(rows)} fresh human pairs to check {judge} on, fewer than {least}."
        return _finding(name, None, limit, status="unmeasured", says=says)
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
        return _finding(name, None, limit, status="alarm", says=str(error))
    lost = found.accuracy_high < floor
    says = (
        f"{judge} agrees with people on {found.accuracy:.3f} of {found.num_pairs} fresh pairs, between"
        f" {found.accuracy_low:.3f} and {found.accuracy_high:.3f}."
    )
    return _finding(name, found.accuracy, limit, status="alarm" if lost else "ok", says=says)


def preference_finding(project: Project, champion: CandidateVersion | None, fresh: pa.Table | None) -> MonitorFinding:
    """How often people prefer the champion's images to others', in fresh pairs that name it on one side only."""
    least, limit = project.monitor.minimum_fresh_pairs, project.monitor.minimum_champion_win_rate
    outcomes = [] if fresh is None else champion_outcomes(fresh, champion_names(project, champion))
    asked = f"not below {limit:g}"
    if len(outcomes) < least:
        says = f"{len(outcomes)} fresh pairs set the champion's images against others, fewer than {least}."
        return _finding("champion_preference", None, asked, status="unmeasured", says=says)
    wins, ties, losses = (outcomes.count(value) for value in (1.0, 0.5, 0.0))
    low, high = win_rate_interval(wins, ties, losses, confidence=project.evaluation.confidence)
    rate = sum(outcomes) / len(outcomes)
    says = (
        f"People prefer the champion's images in {rate:.3f} of {len(outcomes)} fresh pairs, between {low:.3f} and"
        f" {high:.3f} ({wins} wins, {ties} ties, {losses} losses)."
    )
    status: FindingStatus = "retrain" if high < limit else "ok"
    return _finding("champion_preference", rate, asked, status=status, says=says)


def champion_names(project: Project, champion: CandidateVersion | None) -> frozenset[str]:
    """What pairs may call the champion."""
    own = set(project.monitor.champion_generators)
    if champion is not None:
        version, digest = champion.version, champion.weights_digest
        own |= {f"{project.name}/{version}", f"{project.name}:{version}", f"models:/{project.name}/{version}"}
        own |= {digest, digest[:DIGEST_DIGITS]}
    return frozenset(own)


def champion_outcomes(pairs: pa.Table, names: frozenset[str]) -> list[float]:
    """1, 0.5 or 0 per pair with the champion on exactly one side; `preference` is 1 where image 0 was preferred."""
    columns = (pairs[name].to_pylist() for name in ("generator_0", "generator_1", "preference"))
    return [
        preference if first in names else 1 - preference
        for first, second, preference in zip(*columns, strict=True)
        if (first in names) != (second in names)
    ]


def drift_findings(project: Project, incoming: Incoming) -> list[MonitorFinding]:
    """Each column of facts against the pairs that the champion was trained on."""
    least, limit = project.monitor.minimum_fresh_pairs, project.monitor.maximum_drift
    if incoming.reference is None or incoming.fresh is None or incoming.fresh.num_rows < least:
        what = "None of the champion's pairs is at hand" if incoming.reference is None else "Too few fresh pairs"
        says = f"{what}; drift is asked of {least} fresh pairs and more."
        return [_finding("drift", None, f"< {limit:g}", status="unmeasured", says=says)]
    return [_drift(project, moved) for moved in drift.compare(incoming.reference, incoming.fresh)]


def _drift(project: Project, moved: drift.Drift) -> MonitorFinding:
    """Retrain when a column moved, unless it only says where the pairs come from.

    People judge the champion's own images, as they should, and these were in no pair that it was trained on: asking
    for a retraining over that would ask for one after every promotion, for ever.
    """
    drifted = moved.effect >= project.monitor.maximum_drift and moved.p_value <= project.monitor.drift_level
    asks = moved.column not in drift.PROVENANCE
    says = (
        f"{moved.column} {'moved' if drifted else 'stays'}: {moved.test.replace('_', '-')} effect"
        f" {moved.effect:.3f}, p = {moved.p_value:.2g} ({moved.num_reference} values then, {moved.num_fresh} now)."
    )
    return _finding(
        f"drift:{moved.column}",
        moved.effect,
        f"< {project.monitor.maximum_drift:g}" if asks else "for information",
        status="retrain" if drifted and asks else "ok",
        says=says,
    )


def _finding(name: str, measured: float | None, limit: str, *, status: FindingStatus, says: str) -> MonitorFinding:
    return MonitorFinding(name=name, measured=measured, limit=limit, status=status, explanation=says)


# --- retraining -----------------------------------------------------------------------------------------------------


def turn(
    project: Project, last: RetrainEntry | None, *, key: str, now: datetime
) -> Literal["advised", "due", "held_back"]:
    """Whether the run of that key may announce a retraining after the `last` one; without a key it is only advised."""
    if last is not None and key and last.key == key:
        return "due"
    if last is not None and now - last.at < timedelta(days=project.monitor.retrain_every_days):
        return "held_back"
    return "due" if key else "advised"


def claim(workspace: Workspace, reasons: Sequence[str], *, key: str, now: datetime) -> bool:
    """Take the turn, in the very act of announcing; False when another run took it in the meantime.

    The claim is in the store: of two runs one gets it, and a retry with the same key gets it again.
    """
    number, last = last_announced(workspace)
    if turn(workspace.project, last, key=key, now=now) != "due":
        return False
    if last is not None and last.key == key:
        return True
    entry = RetrainEntry(at=now, key=key, reasons=tuple(reasons))
    return _retrains(workspace).create(number + 1, entry)


def take(workspace: Workspace, *, key: str, now: datetime) -> bool:
    """Take the newest announced retraining for the training run `key`; False when another run took it.

    The mark is in the store, so that a retraining whose event Airflow did not deliver is taken by the next run, and by
    one run only; a retry with the same key takes it again. An announcement older than `retrain_every_days` (at least
    one day) has lapsed: the monitor announces again what it still wants.
    """
    number, last = last_announced(workspace)
    if last is None or now - last.at > timedelta(days=max(workspace.project.monitor.retrain_every_days, 1)):
        return False
    taken = series_of_json(workspace.store, "monitor", workspace.project.name, "retrains_taken")
    mark = {"key": key, "at": now.isoformat()}
    return taken.create(number, mark) or bool(taken.read(number)["key"] == key)


def last_announced(workspace: Workspace) -> tuple[int, RetrainEntry | None]:
    """The number of the newest announced retraining, and itself; 0 and None while there is none."""
    return _retrains(workspace).last()


def _retrains(workspace: Workspace) -> Series[RetrainEntry]:
    store = workspace.store
    return series_of_models(store, "monitor", workspace.project.name, "retrains", model=RetrainEntry)


# --- for people -----------------------------------------------------------------------------------------------------


def markdown(report: MonitorReport) -> str:
    """The report as a table."""
    champion = "the base model" if report.champion_version is None else f"version {report.champion_version}"
    lines = [
        f"# {report.project}: {report.outcome}",
        "",
        f"{champion}, {report.num_fresh_pairs} fresh pairs, {report.at:%Y-%m-%d %H:%M} UTC. Retraining:"
        f" {report.retrain.replace('_', ' ')}.",
        "",
        "| question | measured | limit | | |",
        "|---|---|---|---|---|",
    ]
    for finding in report.findings:
        measured = "" if finding.measured is None else f"{finding.measured:.3f}"
        # Names of sources and formats are other people's text.
        says = finding.explanation.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {finding.name} | {measured} | {finding.limit} | {finding.status} | {says} |")
    return "\n".join([*lines, ""])
