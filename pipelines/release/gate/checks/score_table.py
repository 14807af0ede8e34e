"""Find figures that a report lacks, and figures that do not follow from its tables. Pure arithmetic, no I/O."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison, EvalReport
from alignment.contracts.values import Record
from alignment.statistics.comparison import OPPONENTS, ScoreTable, compare_all
from alignment.statistics.human_pairs import Scope, agreements, from_columns
from alignment.statistics.score_grids import SHUFFLED, ScoreGrids

Columns = dict[str, list[object]]

RECOMPUTE_TOLERANCE = 1e-6
"""Largest difference, relative above 1, between a reported number and the same number from the score table."""

ROLES = ("candidate", "champion", "base", f"candidate{SHUFFLED}", f"champion{SHUFFLED}")


def measurement_problems(report: EvalReport) -> list[str]:
    """List the comparisons and calibrations of the spec that are missing, duplicate or impossible in the report."""
    problems = []
    for scorer in (*report.spec.judges, *report.spec.guards):
        for against in OPPONENTS:
            found = [c for c in report.comparisons if (c.scorer, c.against) == (scorer.name, against)]
            if len(found) != 1:
                problems.append(f"{scorer.name} against the {against} was measured {len(found)} times instead of once")
            problems += [
                problem for comparison in found for problem in _impossible(comparison, report.independent_prompts)
            ]
    for calibration in report.calibrations:
        values = (calibration.accuracy, calibration.accuracy_low, calibration.accuracy_high)
        if not all(math.isfinite(value) for value in values):
            problems.append(f"the calibration of {calibration.judge} is not finite")
    return problems


def _impossible(comparison: Comparison, num_prompts: int) -> list[str]:
    name = f"{comparison.scorer} against the {comparison.against}"
    values = [value for value in comparison.model_dump().values() if isinstance(value, float)]
    if not all(math.isfinite(value) for value in values):
        return [f"{name} is not finite"]
    counts = (comparison.wins, comparison.ties, comparison.losses)
    if min(counts) < 0 or sum(counts) != comparison.num_prompts or comparison.num_prompts != num_prompts:
        return [f"{name} has {counts} wins, ties and losses for {num_prompts} prompts"]
    return []


def recompute(report: EvalReport, score_columns: Mapping[str, Sequence[Any]], *, scores_sha256: str) -> list[str]:
    """List the disagreements between the report and its score table, by computing every comparison from the columns.

    `scores_sha256` is the digest of the file that the columns were read from. An empty list means agreement.
    """
    problems = []
    if scores_sha256 != report.scores_digest:
        problems.append(f"the table's sha256 is {scores_sha256[:12]}, the report names {report.scores_digest[:12]}")
    try:
        table = ScoreTable.from_columns(score_columns)
    except (ValueError, TypeError) as error:
        return [*problems, f"the table cannot be read: {error}"]
    scorers = [scorer.name for scorer in (*report.spec.judges, *report.spec.guards)]
    spec = report.spec
    again, faults = compare_all(table, scorers, tie_thresholds=spec.tie_thresholds, confidence=spec.confidence)
    _, broken = ScoreGrids.from_table(table)
    problems += [*faults, *(b for b in broken if not any(b in fault for fault in faults))]
    problems += [*_foreign_rows(report, table, scorers), *_changing_columns(score_columns)]
    return [*problems, *_disagreements(report.comparisons, again)]


def recompute_calibrations(
    report: EvalReport, columns: Mapping[str, Sequence[Any]] | None, *, table_sha256: str
) -> list[str]:
    """List the disagreements between the report's calibrations and its calibration table; `columns` is None when the
    table is missing.

    A report that names no table was written by an earlier version: its judges' agreement cannot be verified.
    """
    if report.calibration_scores_digest is None:
        return ["the report does not name the calibration table of its judges: evaluate again"]
    if columns is None:
        return ["the calibration table is not in the evaluation's folder, or is not a parquet file"]
    problems = []
    if table_sha256 != report.calibration_scores_digest:
        named = report.calibration_scores_digest[:12]
        problems.append(f"the calibration table's sha256 is {table_sha256[:12]}, the report names {named}")
    try:
        rows, facts = from_columns(columns)
    except (ValueError, TypeError) as error:
        return [*problems, f"the calibration table cannot be read: {error}"]
    again, faults = agreements(report.spec.judges, rows, facts, confidence=report.spec.confidence)
    reported, fresh = [c.judge for c in report.calibrations], {c.judge: c for c in again}
    if sorted(reported) != sorted(fresh):
        problems.append(
            f"the report calibrates {', '.join(sorted(reported))}, the table gives {', '.join(sorted(fresh))}"
        )
    both = [(c, fresh[c.judge]) for c in report.calibrations if c.judge in fresh]
    return [*problems, *faults, *(p for own, new in both for p in _differences(own, new, f"{own.judge}'s calibration"))]


def calibrations_in_scope(
    report: EvalReport, columns: Mapping[str, Sequence[Any]] | None, scopes: Mapping[str, Scope]
) -> list[Calibration]:
    """Return each judge's agreement on the pairs that count for its vote; empty when the table cannot be read."""
    try:
        rows, facts = from_columns(columns or {})
    except (ValueError, TypeError):
        return []
    return agreements(report.spec.judges, rows, facts, confidence=report.spec.confidence, scopes=scopes)[0]


def read_columns(data: bytes) -> Columns:
    """Read the columns of a parquet file; ValueError when the bytes are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: Columns = pq.read_table(pa.BufferReader(data)).to_pydict()
    return columns


def read_grids(score_columns: Mapping[str, Sequence[Any]]) -> ScoreGrids:
    """Return the complete grids of a score table; none when it cannot be read, which `recompute` reports."""
    try:
        return ScoreGrids.from_table(ScoreTable.from_columns(score_columns))[0]
    except (ValueError, TypeError):
        return ScoreGrids({})


def _changing_columns(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """List prompts with more than one text and scorers with more than one digest. The shuffled rows may have other
    texts."""
    problems = []
    facts = (
        ("prompt_index", "prompt", "text"),
        ("prompt_index", "group", "group"),
        ("scorer", "scorer_digest", "digest"),
    )
    for key, value, what in facts:
        if value not in columns:
            continue
        rows = zip(columns["role"], columns[key], columns[value], strict=False)
        seen = {(name, own) for role, name, own in rows if value != "prompt" or not str(role).endswith(SHUFFLED)}
        names = [name for name, _ in seen]
        changing = sorted({str(name) for name in names if names.count(name) > 1}) if len(seen) > len(set(names)) else []
        if changing:
            problems.append(f"{key} {', '.join(changing[:3])} has more than one {what} in the table")
    return problems


def _foreign_rows(report: EvalReport, table: ScoreTable, scorers: Iterable[str]) -> list[str]:
    """List scorers, roles, seeds and prompts of the table that do not match the spec."""
    problems = []
    extra = sorted(set(table.scorers()) - set(scorers))
    if extra:
        problems.append(f"the table has scorers that the spec does not name: {', '.join(extra)}")
    strangers = sorted({str(role) for role in table.role} - set(ROLES))
    if strangers:
        problems.append(f"the table has unknown roles: {', '.join(strangers)}")
    seeds = {int(seed) for seed in table.seed}
    if seeds != set(report.spec.seeds):
        problems.append(f"the table has seeds {sorted(seeds)}, the spec has {sorted(report.spec.seeds)}")
    prompts = {int(index) for index in table.prompt_index}
    if prompts != set(range(report.num_prompts)):
        problems.append(f"the table has {len(prompts)} prompts, the report has {report.num_prompts}")
    groups = len(set(table.group.tolist())) if len(table.group) else len(prompts)
    if groups != report.independent_prompts:
        problems.append(f"the table has {groups} groups of prompts, the report has {report.independent_prompts}")
    return problems


def _disagreements(reported: Iterable[Comparison], again: Iterable[Comparison]) -> list[str]:
    fresh = {(c.scorer, c.against): c for c in again}
    problems = []
    for comparison in reported:
        other = fresh.get((comparison.scorer, comparison.against))
        if other is None:
            continue
        problems += _differences(comparison, other, f"{comparison.scorer} against the {comparison.against}")
    return problems


def _differences(reported: Record, again: Record, what: str) -> list[str]:
    """List the numbers of a record that differ from those of another record of its class."""
    return [
        f"{what}, {field}: reported {value:g}, recomputed {getattr(again, field):g}"
        for field, value in reported.model_dump().items()
        if not isinstance(value, str)
        and not abs(value - getattr(again, field)) <= RECOMPUTE_TOLERANCE * max(1.0, abs(getattr(again, field)))
    ]
