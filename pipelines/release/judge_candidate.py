"""Judge a candidate: read the evidence (gate/evidence.py), decide (gate/verdict.py), save and show the decision."""

import logging
import tempfile
import time
from pathlib import Path

from alignment.contracts.coverage import CoverageReport
from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.gate import decision_log
from pipelines.release.gate.evidence import evidence_against
from pipelines.release.gate.verdict import decide
from pipelines.release.pages import candidate_page, write
from pipelines.release.pages.costs import candidate_total
from pipelines.tracking import open_runs, pages, registry, run_stream, runs
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)


def judge(
    workspace: Workspace,
    *,
    candidate: CandidateVersion,
    champion: CandidateVersion | None,
    report: EvalReport,
    coverage: CoverageReport | None = None,
) -> GateDecision:
    """Decide from the score table, write the HTML report and the model card, and save the decision.

    `coverage` is shown in the report and does not affect the verdict.

    Raises ValueError when the evaluation's folder is not in the store.
    """
    store = workspace.store
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "evaluation"
        store.fetch_folder(report.uri, folder)
        evidence = evidence_against(champion, candidate=candidate, report=report, folder=folder, workspace=workspace)
        decision = decide(evidence)
        decision = decision.model_copy(update={"report_uri": _report_uri(workspace, decision)})
        write.write_pages(workspace, decision, report=report, folder=folder, scores=evidence.scores, coverage=coverage)
    decision_log.save_decision(decision, workspace)
    return decision


def _report_uri(workspace: Workspace, decision: GateDecision) -> str:
    """Return the URI of a decision's HTML report."""
    store = workspace.store
    identity = decision.model_copy(update={"report_uri": ""}).digest
    return store.uri("evaluations", "reports", workspace.project.name, f"{identity}.html")


def show_in_tracking(
    workspace: Workspace,
    decision: GateDecision,
    *,
    report: EvalReport,
    run_key: str,
    coverage: CoverageReport | None = None,
) -> None:
    """Show verdict, bounds, report and contact sheet in MLflow, on the pipeline run's page and the candidate's page.

    The cost of the candidate becomes tags of its version and its page, that of the project tags of the experiment.
    """
    settings = workspace.settings
    tags = runs.airflow_tags(settings, run_key)
    run_id = runs.parent_run(settings, project=workspace.project.name, key=run_key, tags=tags)
    runs.set_run_tags(settings, run_id, candidate_page.verdict_tags(decision))
    stream = run_stream.RunStream(settings.tracking_uri, run_id)
    store = workspace.store
    runs.log_text(settings, run_id, store.read_bytes(decision.report_uri).decode(), "gate/report.html")
    runs.log_dict(settings, run_id, decision.model_dump(mode="json"), "gate/decision.json")
    with tempfile.TemporaryDirectory() as scratch:
        sheet = Path(scratch) / "contact_sheet.png"
        sheet.write_bytes(store.read_bytes(f"{report.uri}/contact_sheet.png"))
        runs.log_artifacts(settings, run_id, sheet, "gate")
    stream.log_metrics(0, time.time(), candidate_page.bounds(report))
    stream.flush()
    runs.finish_run(settings, run_id, "FINISHED")
    known = write.provenance_of(workspace, decision, report=report, coverage=coverage)
    tags = open_runs.cost_tags(candidate_total(known.records))
    facts = candidate_page.candidate_facts(known)
    page_id = candidate_page.show_candidate(settings, decision, report=report, facts=facts)
    runs.set_run_tags(settings, page_id, tags)
    page = run_stream.RunStream(settings.tracking_uri, page_id)
    page.log_metrics(0, time.time(), {name.replace(".", "/", 1): float(value) for name, value in tags.items()})
    page.flush()
    if address := pages.report_page(settings, decision.candidate.model, decision.candidate.version):
        log.info("Report: %s", address)
    registry.set_version_tags(settings, decision.candidate.model, decision.candidate.version, tags)
    open_runs.show_project_total(settings, workspace.project.name, known.project_total)
