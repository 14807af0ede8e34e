"""The gate's verdict from what the store holds: made once by the gate, and made again before an alias moves."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from alignment.contracts.evaluation import EvalReport
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.file import Project
from pipelines.records import calibrations
from pipelines.records.heldout_prompts import evaluation_digest
from pipelines.release.gate import recompute, verdict
from pipelines.settings import Settings
from pipelines.store.storage import open_store

SCORES_FILE = "scores.parquet"


@dataclass(frozen=True)
class ScoreFile:
    """A score table as it was read."""

    columns: dict[str, list[object]]
    scores: ScoreGrids
    """Its whole grids; what is not whole is absent."""
    sha256: str


def read_scores(data: bytes) -> ScoreFile:
    """The score table in the bytes of a parquet file."""
    columns = read_columns(data)
    return ScoreFile(columns, recompute.read_grids(columns), hashlib.sha256(data).hexdigest())


def read_columns(data: bytes) -> dict[str, list[object]]:
    """The columns of a parquet file, plain."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[object]] = pq.read_table(pa.BufferReader(data)).to_pydict()
    return columns


@dataclass(frozen=True)
class LabelFile:
    """A calibration table as it was read."""

    columns: dict[str, list[object]] | None
    """None where there is no table to read."""
    sha256: str


def read_labels(report: EvalReport, settings: Settings) -> LabelFile:
    """The calibration table of an evaluation, or that there is none."""
    uri = f"{report.uri}/{calibrations.CALIBRATION_SCORES}"
    try:
        data = open_store(uri, settings).read_bytes(uri)
        return LabelFile(read_columns(data), hashlib.sha256(data).hexdigest())
    except (OSError, ValueError):
        return LabelFile(None, "")


def decide(
    report: EvalReport,
    table: ScoreFile,
    candidate: CandidateVersion,
    *,
    champion_version: int | None,
    champion_weights_digest: str,
    project: Project,
    settings: Settings,
) -> GateDecision:
    """The gate's decision by the project's policy, prompts and calibrations as they are now; without a page yet.

    The calibration table is read from the evaluation's folder; one that is missing is told by the decision.
    """
    judges, now = report.spec.judges, datetime.now(UTC)
    labels = read_labels(report, settings)
    problems = recompute.recompute(report, table.columns, scores_sha256=table.sha256)
    problems += recompute.recompute_calibrations(report, labels.columns, table_sha256=labels.sha256)
    records = calibrations.records(judges, project.name, project.gate, settings=settings)
    scopes = {name: calibrations.scope(known, project.gate, now) for name, known in records.items()}
    return verdict.decide(
        report,
        project.gate,
        candidate,
        champion_version=champion_version,
        champion_weights_digest=champion_weights_digest,
        scores=table.scores,
        table_problems=problems,
        prompts_digest=evaluation_digest(project, settings),
        barred=calibrations.barred(records, project.gate, now),
        calibrations=recompute.calibrations_in_scope(report, labels.columns, scopes),
    )
