"""Write the pages of a decision to the store: the HTML report and the model card."""

from pathlib import Path

from alignment.contracts.coverage import CoverageReport
from alignment.contracts.evaluation import EvalReport
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.jobs import JobKind
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.pages import model_card
from pipelines.release.pages import report as reports
from pipelines.release.pages.provenance import Provenance, read_evaluation, read_provenance
from pipelines.workspace import Workspace


def write_pages(
    workspace: Workspace,
    decision: GateDecision,
    *,
    report: EvalReport,
    folder: Path,
    scores: ScoreGrids,
    coverage: CoverageReport | None = None,
) -> None:
    """Write the report to the decision's report_uri and the model card beside it. `folder` is the evaluation's."""
    store = workspace.store
    known = provenance_of(workspace, decision, report=report, coverage=coverage)
    html = reports.render_report(report, decision, folder, scores=scores, provenance=known, coverage=coverage)
    store.write_bytes(decision.report_uri, html.encode())
    store.write_bytes(card_uri(decision), model_card.render_card(report, decision, workspace.project, known).encode())


def export_card(
    workspace: Workspace,
    candidate: CandidateVersion,
    decision: GateDecision | None,
    *,
    format: str,
    files: tuple[str, ...],
    repository: str = "",
) -> str:
    """Return the card of an export of a version. `decision` is the newest about it; `repository` is empty for a folder.

    A decision about other weights, or whose evaluation is gone, is left out.
    """
    judged = None
    if decision is not None and decision.candidate.weights_digest == candidate.weights_digest:
        report = read_evaluation(workspace.store, decision)
        judged = (report, decision) if report else None
    known = read_provenance(candidate, workspace, evaluations=[("evaluate", judged[0].spec.digest)] if judged else [])
    exported = model_card.Exported(format, files, repository or ".")
    return model_card.render_export_card(candidate, workspace.project, known, judged=judged, exported=exported)


def provenance_of(
    workspace: Workspace, decision: GateDecision, *, report: EvalReport, coverage: CoverageReport | None
) -> Provenance:
    """Read the history of a judged version, its evaluation included."""
    judged: list[tuple[JobKind, str]] = [("evaluate", report.spec.digest)]
    if coverage is not None:
        judged.append(("coverage", coverage.spec.digest))
    return read_provenance(decision.candidate, workspace, evaluations=judged)


def card_uri(decision: GateDecision) -> str:
    """Return the URI of a decision's model card, beside its report."""
    return decision.report_uri.removesuffix(".html") + ".md"
