"""Stored calibrations of a project: numbered records, one series for each judge's name.

The gate measures agreement again in every evaluation, on the pairs that count under the policy (`scope`). The record
dates human labels that have no timestamp. A judge may not vote when its record has expired, or when there is none for
its weights.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from alignment.contracts.calibration import Calibration, CalibrationReport
from alignment.contracts.jobs import CALIBRATION_SCORES_FILE
from alignment.contracts.judges import Judge
from alignment.statistics.human_pairs import Scope, agreement, from_columns
from pipelines.contracts.judges import CalibrationRecord
from pipelines.project.gate import GatePolicy
from pipelines.records.series import Series, series_of_models
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store

SECONDS_A_DAY = 86_400


def record(report: CalibrationReport, project: str, store: Store) -> list[CalibrationRecord]:
    """Store each judge's calibration as the newest of its name, unless it is the newest already.

    A repeated calibration on the same pairs keeps its first date.
    """
    kept = []
    for calibration in report.judges:
        fresh = CalibrationRecord(
            project=project,
            calibration=calibration,
            alpha=report.reliability.alpha,
            report_uri=report.uri,
            scores_digest=report.scores_digest,
            recorded_at=datetime.now(UTC),
        )
        kept.append(_keep(fresh, store))
    return kept


def _keep(fresh: CalibrationRecord, store: Store) -> CalibrationRecord:
    def propose(number: int, last: CalibrationRecord | None) -> CalibrationRecord | None:
        if last and (last.calibration, last.scores_digest) == (fresh.calibration, fresh.scores_digest):
            return None
        return fresh.model_copy(update={"number": number})

    return _series(fresh.project, fresh.calibration.judge.name, store).append(propose)


def _history(project: str, judge: str, store: Store) -> list[CalibrationRecord]:
    """Read every calibration of a judge's name, oldest first."""
    return _series(project, judge, store).entries()


def newest(project: str, judge: Judge, store: Store) -> CalibrationRecord | None:
    """Find the last calibration of this scorer with these weights; None if there is none."""
    for known in reversed(_history(project, judge.name, store)):
        own = known.calibration.judge
        if (own.weights_digest, own.scorer) == (judge.weights_digest, judge.scorer):
            return known
    return None


def age_days(known: CalibrationRecord, now: datetime) -> float:
    """Return the days since the newest human pair, or since the calibration if pairs have no date or a future one."""
    at = known.recorded_at if known.age_from > now else known.age_from
    return max(0.0, (now - at).total_seconds() / SECONDS_A_DAY)


def refusal(known: CalibrationRecord | None, policy: GatePolicy, now: datetime) -> str:
    """Return why a judge may not vote, as the end of a sentence that begins with its name; empty when it may."""
    limit = policy.maximum_calibration_age_days
    if not limit:
        return ""
    if known is None:
        return "was never calibrated with these weights: run `plumbline calibrate`"
    age = age_days(known, now)
    if age <= limit:
        return ""
    since = "newest human pairs are" if known.calibration.newest_pair_at else "calibration is"
    return f"has a calibration that expired: its {since} {age:.0f} days old, more than {limit:g}"


def scope(known: CalibrationRecord | None, policy: GatePolicy, now: datetime) -> Scope:
    """Select the pairs that count for a judge's vote. Pairs without a date are as old as the record."""
    limit = policy.maximum_calibration_age_days
    if not limit:
        return Scope(generators=policy.calibration_generators)
    since = now - timedelta(days=limit)
    return Scope(
        since=since,
        until=now,
        undated=known is not None and known.recorded_at >= since,
        generators=policy.calibration_generators,
    )


def records(
    judges: Sequence[Judge], project: str, policy: GatePolicy, *, store: Store
) -> dict[str, CalibrationRecord | None]:
    """Return the newest record of each judge by name. Without an age limit the store is not read, and all are None."""
    aged = bool(policy.maximum_calibration_age_days)
    return {judge.name: newest(project, judge, store) if aged else None for judge in judges}


def counted(known: CalibrationRecord, policy: GatePolicy, *, settings: Settings, now: datetime) -> Calibration:
    """Compute a record's agreement on the pairs that count now; ValueError when its table is missing or changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    uri, own = f"{known.report_uri}/{CALIBRATION_SCORES_FILE}", known.calibration
    try:
        content = open_store(uri, settings).read_bytes(uri)
        columns = pq.read_table(pa.BufferReader(content)).to_pydict()
    except (OSError, ValueError) as error:
        raise ValueError(f"its calibration table {uri} cannot be read ({error}): run `plumbline calibrate`") from error
    if hashlib.sha256(content).hexdigest() != known.scores_digest:
        raise ValueError(f"its calibration table {uri} was changed after it was recorded: run `plumbline calibrate`")
    rows, facts = from_columns(columns)
    pairs = [row.pair for row in rows if row.judge == own.judge.name]
    return agreement(own.judge, pairs, facts, confidence=own.confidence, scope=scope(known, policy, now))


def barred(records: Mapping[str, CalibrationRecord | None], policy: GatePolicy, now: datetime) -> Mapping[str, str]:
    """Return the judges without a valid calibration, each with the reason, as the gate's evidence needs them."""
    refusals = {name: refusal(known, policy, now) for name, known in records.items()}
    return {name: reason for name, reason in refusals.items() if reason}


def _series(project: str, judge: str, store: Store) -> Series[CalibrationRecord]:
    return series_of_models(store, "calibrations", project, judge, model=CalibrationRecord)
