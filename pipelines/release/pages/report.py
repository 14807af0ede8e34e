"""Render EvalReport and GateDecision as one self-contained HTML file: styles inline, images as data URIs.

jinja2 escapes all external text (prompts, names, problems). The page has no script and no external address. The same
evidence gives the same bytes. Each section of the page has a template in this folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.contracts.coverage import CoverageReport
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import CONTACT_SHEET_FILE
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateDecision
from pipelines.pages.page import page_environment
from pipelines.release.pages.calibration_plot import plot_attenuation
from pipelines.release.pages.checks import check_groups
from pipelines.release.pages.costs import cost_rows
from pipelines.release.pages.coverage_plot import labelled_curves, plot_coverage
from pipelines.release.pages.curve_plot import plot_curves
from pipelines.release.pages.judges import HUMAN_EXAMPLE, attenuation, calibration_row, scorer_panel, scorers
from pipelines.release.pages.lineage import SHORT, commands, lineage
from pipelines.release.pages.pictures import extremes_by_end, picture, sheet_prompts, svg_uri
from pipelines.release.pages.provenance import Provenance
from pipelines.release.pages.slice_plot import plot_slices
from pipelines.release.pages.slices import slice_rows
from pipelines.release.pages.training import chosen_warning, curves, norm_note, recipe_facts
from pipelines.release.pages.wording import headline, opponent, percent, summary

TEMPLATE = "report.html.j2"
NOTHING_KNOWN = Provenance()


@dataclass(frozen=True)
class PageWords:
    """The head of a page, and the commands at its end as (purpose, command) pairs."""

    badge: str
    headline: str
    summary: str
    commands: Sequence[tuple[str, str]]


def _words_of(report: EvalReport, decision: GateDecision) -> PageWords:
    return PageWords(decision.verdict, headline(decision), summary(report, decision), commands(decision))


def render_report(
    report: EvalReport,
    decision: GateDecision,
    folder: Path,
    *,
    scores: ScoreGrids | None = None,
    provenance: Provenance = NOTHING_KNOWN,
    coverage: CoverageReport | None = None,
    words: PageWords | None = None,
) -> str:
    """Return the HTML page of a decision, or of a comparison whose `words` are given.

    `folder` is the evaluation's folder; its contact_sheet.png with its prompts, extremes.json and the images in it are
    shown if present. `scores` is its score table, for the slices; `provenance` is the version's history in the store;
    `coverage` is the report on repeated sampling.
    """
    return (
        page_environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            decision=decision,
            report=report,
            words=words or _words_of(report, decision),
            groups=check_groups(decision),
            scorers=[scorer_panel(report, decision, s.name, kind=k) for k, s in scorers(report)],
            contact_sheet=picture(folder, CONTACT_SHEET_FILE),
            sheet_prompts=sheet_prompts(folder),
            extremes=extremes_by_end(folder),
            short=SHORT,
            opponent=opponent(report),
            lineage=lineage(report, decision, provenance),
            **_slices(report, decision, scores),
            **_calibrations(report, decision),
            **_coverage(coverage),
            **_training(provenance),
        )
    )


def _decision_json(decision: GateDecision) -> str:
    """Return the decision as indented JSON; it reads back as the same value object."""
    return json.dumps(decision.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def _slices(report: EvalReport, decision: GateDecision, scores: ScoreGrids | None) -> dict[str, Any]:
    names = [scorer.name for _, scorer in scorers(report)]
    rows = slice_rows(report, decision, scores, scorers=names) if scores else []
    judges = [judge.name for judge in report.spec.judges]
    return {
        "slices": rows,
        "slice_scorers": names,
        "slice_plot": svg_uri(plot_slices(rows, judges, opponent(report))) if rows else "",
    }


def _calibrations(report: EvalReport, decision: GateDecision) -> dict[str, Any]:
    lines = [line for line in (attenuation(c, report) for c in report.calibrations) if line is not None]
    return {
        "calibrations": [calibration_row(c, report, decision) for c in report.calibrations],
        "calibration_plot": svg_uri(plot_attenuation(lines)) if lines else "",
        "human_example": percent(HUMAN_EXAMPLE),
    }


def _coverage(coverage: CoverageReport | None) -> dict[str, Any]:
    return {
        "coverage": coverage,
        "coverage_curves": labelled_curves(coverage) if coverage else [],
        "coverage_plot": svg_uri(plot_coverage(coverage)) if coverage else "",
    }


def _training(known: Provenance) -> dict[str, Any]:
    found = curves(known.metrics)
    return {
        "recipes": [recipe_facts(recipe) for recipe in known.recipes],
        "soup": known.soup,
        "curve_names": list(found),
        "training_warning": chosen_warning(known.metrics),
        "norm_note": norm_note(known.metrics),
        "curve_plot": svg_uri(plot_curves(found)) if found else "",
        "costs": cost_rows(known.records, known.project_total),
    }
