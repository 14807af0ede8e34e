"""Compare two versions with the gate's checks, without a decision: nothing is saved that could move an alias."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from alignment.contracts.evaluation import Comparison, EvalReport
from pipelines.contracts.release import CandidateVersion, ComparedScorer, GateDecision, VersionComparison
from pipelines.release.gate.evidence import evidence_against
from pipelines.release.gate.verdict import decide
from pipelines.release.pages.provenance import read_provenance
from pipelines.release.pages.report import PageWords, render_report
from pipelines.workspace import Workspace

_OUTCOMES: dict[str, Literal["better", "not_better", "unclear", "not_comparable"]] = {
    "promote": "better",
    "hold": "not_better",
    "inconclusive": "unclear",
    "invalid": "not_comparable",
}
_HEADLINES = {
    "better": "is better than",
    "not_better": "should not replace",
    "unclear": "is not clearly better or worse than",
    "not_comparable": "could not be compared with",
}


def compare_versions(
    workspace: Workspace, first: CandidateVersion, second: CandidateVersion | None, report: EvalReport
) -> VersionComparison:
    """Compare `first` with `second`, None for the base, from their evaluation, and write a page to the store.

    The checks are those of the project's policy, apart from the limit on tries in a quarter: a comparison is no try.
    Raises ValueError when the evaluation's folder is not in the store.
    """
    store = workspace.store
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "evaluation"
        store.fetch_folder(report.uri, folder)
        evidence = evidence_against(second, candidate=first, report=report, folder=folder, workspace=workspace)
        policy = evidence.policy.model_copy(update={"quarterly_error": 0.0})
        decision = decide(replace(evidence, policy=policy))
        found = _comparison(workspace, decision, report)
        known = read_provenance(first, workspace, evaluations=[("evaluate", report.spec.digest)])
        page = render_report(
            report, decision, folder, scores=evidence.scores, provenance=known, words=_words(found, report)
        )
    store.write_bytes(found.report_uri, page.encode())
    return found


def _comparison(workspace: Workspace, decision: GateDecision, report: EvalReport) -> VersionComparison:
    name = workspace.project.name
    identity = decision.model_copy(update={"report_uri": ""}).digest
    return VersionComparison(
        model=name,
        first=decision.candidate.version,
        second=decision.champion_version,
        outcome=_OUTCOMES[decision.verdict],
        reasons=decision.reasons,
        scorers=tuple(_scorer(c) for c in report.comparisons if c.against == "champion"),
        num_prompts=report.num_prompts,
        evaluation_uri=report.uri,
        report_uri=workspace.store.uri("evaluations", "comparisons", name, f"{identity}.html"),
    )


def _scorer(comparison: Comparison) -> ComparedScorer:
    """Return a judge's or guard's figures of a comparison."""
    return ComparedScorer(**comparison.model_dump(include=set(ComparedScorer.model_fields)))


def _words(found: VersionComparison, report: EvalReport) -> PageWords:
    """Return the head of the page and the commands at its end."""
    other = "the base model" if found.second is None else f"version {found.second}"
    again = f"plumbline compare projects/{found.model}.toml {found.first} {found.second or 'base'}"
    return PageWords(
        badge=found.outcome.replace("_", " "),
        headline=f"Version {found.first} of {found.model} {_HEADLINES[found.outcome]} {other}.",
        summary='This comparison moves no alias. In the sections below, "champion" stands for the second model.'
        f" Evaluated on {report.num_prompts} prompts.",
        commands=(("Compare again from the score table:", again),),
    )
