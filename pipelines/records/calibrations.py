"""Calibrations as the project keeps them: numbered records in the store, one series a judge's name.

The gate measures agreement anew in every evaluation, on the pairs that the policy lets count (`scope`); the record
says how old the word of people is who left no date. A judge loses its vote when its record has expired, or when there
is none for its weights.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from alignment.contracts.calibration import Calibration, CalibrationReport
from alignment.contracts.judges import Judge
from alignment.statistics.human_pairs import Scope, agreement, from_columns
from pipelines.contracts.judges import CalibrationRecord
from pipelines.project.gate import GatePolicy
from pipelines.records.series import Series, series_of_models
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store

SECONDS_A_DAY = 86_400
CALIBRATION_SCORES = "calibration_scores.parquet"


def record(report: CalibrationReport, project: str, store: Store) -> list[CalibrationRecord]:
    """Keep each judge's calibration as the newest of its name, unless it is that already.

    The same pairs say the same thing again: a repeated calibration keeps its first date.
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


def history(project: str, judge: str, store: Store) -> list[CalibrationRecord]:
    """Every calibration of a judge's name, oldest first."""
    return _series(project, judge, store).entries()


def newest(project: str, judge: Judge, store: Store) -> CalibrationRecord | None:
    """The last calibration of exactly this scorer with these weights; None while there is none."""
    for known in reversed(history(project, judge.name, store)):
        own = known.calibration.judge
        if (own.weights_digest, own.scorer) == (judge.weights_digest, judge.scorer):
            return known
    return None


def age_days(known: CalibrationRecord, now: datetime) -> float:
    """Days since the newest human pair; where pairs have no date, or one yet to come, since the calibration."""
    at = known.recorded_at if known.age_from > now else known.age_from
    return max(0.0, (now - at).total_seconds() / SECONDS_A_DAY)


def refusal(known: CalibrationRecord | None, policy: GatePolicy, now: datetime) -> str:
    """Why a judge may not vote, as the end of a sentence that begins with the judge; empty when it may."""
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
    """Which pairs count for a judge's vote. Pairs without a date are as old as the record that first had them."""
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
    """The newest record of each judge by name; the store is read only where an age is asked for."""
    aged = bool(policy.maximum_calibration_age_days)
    return {judge.name: newest(project, judge, store) if aged else None for judge in judges}


def counted(known: CalibrationRecord, policy: GatePolicy, *, settings: Settings, now: datetime) -> Calibration:
    """What a record's table says on the pairs that count now. ValueError when the table is not there or was changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    uri, own = f"{known.report_uri}/{CALIBRATION_SCORES}", known.calibration
    try:
        content = open_store(uri, settings).read_bytes(uri)
        columns = pq.read_table(pa.BufferReader(content)).to_pydict()
    except (OSError, ValueError) as error:
        raise ValueError(f"its calibration table {uri} cannot be read ({error}): run `plumbline calibrate`") from error
    if hashlib.sha256(content).hexdigest() != known.scores_digest:
        raise ValueError(f"its calibration table {uri} is not the one that was recorded: run `plumbline calibrate`")
    rows, facts = from_columns(columns)
    pairs = [row.pair for row in rows if row.judge == own.judge.name]
    return agreement(own.judge, pairs, facts, confidence=own.confidence, scope=scope(known, policy, now))


def barred(records: Mapping[str, CalibrationRecord | None], policy: GatePolicy, now: datetime) -> Mapping[str, str]:
    """Judges without a calibration that still counts, and why: what the gate is told beside its evidence."""
    refusals = {name: refusal(known, policy, now) for name, known in records.items()}
    return {name: reason for name, reason in refusals.items() if reason}


def _series(project: str, judge: str, store: Store) -> Series[CalibrationRecord]:
    return series_of_models(store, "calibrations", project, judge, model=CalibrationRecord)
