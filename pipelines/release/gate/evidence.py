"""Read the evidence from the store: when the gate decides, and again before an alias moves."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import CALIBRATION_SCORES_FILE, SCORES_FILE
from alignment.contracts.judges import Judge
from alignment.statistics.prompts import EvalPrompt
from pipelines.contracts.release import CandidateVersion
from pipelines.records import calibrations
from pipelines.records.heldout_prompts import evaluation_digest
from pipelines.release.champion import ledger
from pipelines.release.gate import decision_log, promoted
from pipelines.release.gate.checks.interface import Evidence
from pipelines.release.gate.checks.score_table import (
    Columns,
    calibrations_in_scope,
    read_columns,
    read_grids,
    recompute,
    recompute_calibrations,
)
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace


def read_evidence(
    report: EvalReport,
    scores: bytes,
    candidate: CandidateVersion,
    *,
    champion_version: int | None,
    champion_weights_digest: str,
    workspace: Workspace,
) -> Evidence:
    """Collect the evidence under the project's current policy, prompts and calibrations.

    `scores` are the bytes of the score table; ValueError when they are not a parquet file. The calibration table is
    read from the evaluation's folder; a missing table is listed in the evidence's `table_problems`.
    """
    project = workspace.project
    judges, now, columns = report.spec.judges, datetime.now(UTC), read_columns(scores)
    labels, labels_sha256 = _read_labels(report, workspace.settings)
    records = calibrations.records(judges, project.name, project.gate, store=workspace.store)
    scopes = {name: calibrations.scope(known, project.gate, now) for name, known in records.items()}
    grids = read_grids(columns)
    return Evidence(
        report=report,
        scores=grids,
        policy=project.gate,
        candidate=candidate,
        champion_version=champion_version,
        champion_weights_digest=champion_weights_digest,
        table_problems=(
            *recompute(report, columns, scores_sha256=hashlib.sha256(scores).hexdigest()),
            *recompute_calibrations(report, labels, table_sha256=labels_sha256),
        ),
        prompts_digest=evaluation_digest(workspace.project, workspace.store),
        barred=calibrations.barred(records, project.gate, now),
        tries=decision_log.tries_before(report, workspace, now),
        ungated_champion=ledger.ungated(ledger.entries(project.name, workspace.store), champion_version),
        promoted=(
            promoted.comparable_scores(report, grids, candidate, workspace)
            if project.gate.anchor == "best" and champion_version is not None
            else {}
        ),
        calibrations=calibrations_in_scope(report, labels, scopes),
    )


def evidence_against(
    champion: CandidateVersion | None,
    *,
    candidate: CandidateVersion,
    report: EvalReport,
    folder: Path,
    workspace: Workspace,
) -> Evidence:
    """Collect the evidence of an evaluation that was fetched to `folder`; without a champion, against the base.

    ValueError when its score table is not a parquet file.
    """
    return read_evidence(
        report,
        (folder / SCORES_FILE).read_bytes(),
        candidate,
        champion_version=champion.version if champion else None,
        champion_weights_digest=champion.weights_digest if champion else candidate.base_digest,
        workspace=workspace,
    )


def last_agreements(workspace: Workspace) -> tuple[str, list[tuple[Judge, Calibration]]]:
    """Return each judge's agreement in the last decided evaluation, on the pairs that count now, and its folder.

    Without a decision, or when its evaluation is gone, the folder is empty. A judge without a calibration record votes
    on this agreement.
    """
    decision = decision_log.last_decision(workspace)
    manifest = workspace.store.read_manifest(decision.evaluation_uri) if decision else None
    if manifest is None:
        return "", []
    report = EvalReport.model_validate(manifest.value)
    labels, sha256 = _read_labels(report, workspace.settings)
    if recompute_calibrations(report, labels, table_sha256=sha256):
        return "", []
    scope = calibrations.scope(None, workspace.project.gate, datetime.now(UTC))
    found = calibrations_in_scope(report, labels, {judge.name: scope for judge in report.spec.judges})
    judges = {judge.name: judge for judge in report.spec.judges}
    return report.uri, [(judges[own.judge], own) for own in found]


def score_columns(evaluation_uri: str, settings: Settings) -> Columns:
    """Read the score table of an evaluation in the store."""
    uri = f"{evaluation_uri}/{SCORES_FILE}"
    return read_columns(open_store(uri, settings).read_bytes(uri))


def evaluated_prompts(columns: Columns) -> list[EvalPrompt]:
    """Return the prompts of a score table, each with the index of the first of its near-duplicates as its group."""
    groups = columns.get("group") or [None] * len(columns["role"])
    rows = zip(columns["role"], columns["prompt_index"], columns["prompt"], groups, strict=True)
    found = {
        int(str(index)): EvalPrompt(int(str(index)), str(text), "", None if group is None else str(group))
        for role, index, text, group in rows
        if role == "candidate"
    }
    return list(found.values())


def _read_labels(report: EvalReport, settings: Settings) -> tuple[Columns | None, str]:
    """Read the calibration table and its sha256; None when the table is missing or unreadable."""
    uri = f"{report.uri}/{CALIBRATION_SCORES_FILE}"
    try:
        data = open_store(uri, settings).read_bytes(uri)
        return read_columns(data), hashlib.sha256(data).hexdigest()
    except (OSError, ValueError):
        return None, ""
