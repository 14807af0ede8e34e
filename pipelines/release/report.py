"""EvalReport and GateDecision to one HTML file that needs nothing else: styles inline, images as data URIs.

Everything that comes from outside (prompts, names, problems) is escaped by jinja2. No script, no external address.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.contracts import Calibration, Comparison, EvalReport
from alignment.coverage_contracts import CoverageReport
from alignment.evaluation.extremes import Extreme
from pipelines.contracts import GateCheck, GateDecision
from pipelines.release.coverage_plot import labelled_curves, plot_coverage

TEMPLATE = "report.html.j2"
CONTACT_SHEET_FILE = "contact_sheet.png"
EXTREMES_FILE = "extremes.json"

Points = Sequence[tuple[float, float]]

PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 300.0, 110.0, 6.0

FAMILIES = {
    "votes": "Do independent judges prefer it?",
    "guards": "Is it no worse where it counts?",
    "slices": "Did any kind of prompt get worse?",
    "detectors": "Was a judge hacked?",
    "power": "Were there prompts enough?",
    "evidence": "Is the evidence sound?",
    "": "Other",
}
"""Families of checks in the order in which a person asks them."""

HEADLINES = {
    "promote": "is better than",
    "hold": "should not replace",
    "inconclusive": "cannot be told apart well enough from",
    "invalid": "could not be judged against",
}


def render_report(
    report: EvalReport,
    decision: GateDecision,
    folder: Path,
    *,
    curves: Mapping[str, Points] | None = None,
    coverage: CoverageReport | None = None,
) -> str:
    """The HTML page of a decision.

    `folder` is the evaluation's folder; its contact_sheet.png, extremes.json and the images that it names are shown
    where they are there. `curves` maps a metric of the training run to its (step, value) points; `coverage` is what
    repeated sampling measured.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        decision=decision,
        report=report,
        headline=headline(decision),
        summary=summary(report, decision),
        checks=check_groups(decision),
        scorers=[scorer_panel(report, decision, s.name, kind=k) for k, s in _scorers(report)],
        calibrations=[calibration_row(c, decision) for c in report.calibrations],
        contact_sheet=data_uri(folder / CONTACT_SHEET_FILE),
        extremes=extremes_by_end(folder),
        curves=[curve_plot(name, points) for name, points in (curves or {}).items()],
        coverage=coverage,
        coverage_curves=labelled_curves(coverage) if coverage else [],
        coverage_plot=data_uri_of(plot_coverage(coverage), "image/svg+xml") if coverage else "",
        lineage=lineage(report, decision),
        commands=commands(decision),
    )


def decision_json(decision: GateDecision) -> str:
    """The decision as indented JSON; it reads back as the same value object."""
    return json.dumps(decision.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


# --- words --------------------------------------------------------------------------------------------------------


def champion_name(decision: GateDecision) -> str:
    """The incumbent in words."""
    version = decision.champion_version
    return "the base model" if version is None else f"the champion, version {version}"


def headline(decision: GateDecision) -> str:
    """One plain sentence."""
    relation = HEADLINES[decision.verdict]
    return f"Version {decision.candidate.version} of {decision.candidate.model} {relation} {champion_name(decision)}."


def summary(report: EvalReport, decision: GateDecision) -> str:
    """What follows from the verdict, and on how much it rests."""
    images = len(report.spec.seeds)
    basis = f"Judged on {report.num_prompts} prompts with {images} image{'s' * (images > 1)} each per model."
    if decision.verdict != "promote":
        follows = "The champion stays." if decision.champion_version is not None else "The base model stays in use."
    elif decision.mode == "enforce":
        follows = "It may become the champion."
    else:
        follows = "It would become the champion if the gate were enforced."
    mode = {"dry_run": " The gate runs dry: no alias moves.", "off": " The gate is off.", "enforce": ""}
    return f"{follows}{mode[decision.mode]} {basis}"


# --- rows and panels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckRow:
    """One line of the table of checks."""

    name: str
    measured: str
    required: str
    passed: bool
    mark: str
    """One word: passed, failed, undecided, unmeasured or warning."""
    explanation: str


def check_groups(decision: GateDecision) -> list[tuple[str, list[CheckRow]]]:
    """Titled checks, family by family."""
    titled = [(title, [c for c in decision.checks if c.family == family]) for family, title in FAMILIES.items()]
    return [(title, [check_row(check) for check in checks]) for title, checks in titled if checks]


def check_row(check: GateCheck) -> CheckRow:
    """A check with readable name and number."""
    kind, _, subject = check.name.partition(":")
    name = kind.replace("_", " ") + (f": {subject}" if subject else "")
    mark = check.note or ("passed" if check.passed else "failed")
    return CheckRow(name, number(check.measured), check.required, check.passed, mark, check.explanation)


def number(value: float | None) -> str:
    """Up to four significant digits; a dash where there is no number."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def percent(value: float) -> str:
    """A share, one decimal."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "-"


@dataclass(frozen=True)
class Bar:
    """Candidate against one other model under one scorer."""

    against: str
    counts: tuple[tuple[str, int, float], ...]
    """(outcome, prompts, share in percent) of wins, ties and losses."""
    win_rate: str
    interval: str
    low: float
    rate: float
    high: float
    """Percent, within 0 and 100, for drawing."""
    change: str


@dataclass(frozen=True)
class ScorerPanel:
    """All that one judge or guard measured."""

    name: str
    kind: str
    status: str
    voting: bool
    bars: tuple[Bar, ...]


def _scorers(report: EvalReport) -> list[tuple[str, Any]]:
    spec = report.spec
    return [*(("judge", judge) for judge in spec.judges), *(("guard", guard) for guard in spec.guards)]


def scorer_panel(report: EvalReport, decision: GateDecision, name: str, *, kind: str) -> ScorerPanel:
    """The bars of one scorer, and whether it had a say."""
    prefix = "may_vote" if kind == "judge" else "guard"
    check = next((c for c in decision.checks if c.name == f"{prefix}:{name}"), None)
    good, bad = ("votes", "may not vote") if kind == "judge" else ("holds", "does not hold")
    status = "was not asked" if check is None else good if check.passed else bad
    measured = [comparison for comparison in report.comparisons if comparison.scorer == name]
    if report.spec.champion.kind == "base":
        bars = tuple(bar(c, "base, the champion") for c in measured if c.against == "champion")
    else:
        bars = tuple(bar(comparison, comparison.against) for comparison in measured)
    return ScorerPanel(name, kind, status, bool(check and check.passed), bars)


def bar(comparison: Comparison, against: str) -> Bar:
    """Counts as shares, rates as percent; figures that are not finite are shown as a dash and drawn at the middle."""
    total = max(1, comparison.num_prompts)
    outcomes = (("wins", comparison.wins), ("ties", comparison.ties), ("losses", comparison.losses))
    rates = (comparison.win_rate_low, comparison.win_rate, comparison.win_rate_high)
    low, rate, high = (100 * min(1.0, max(0.0, r)) if math.isfinite(r) else 50.0 for r in rates)
    bounds = f"{number(comparison.mean_difference_low)} to {number(comparison.mean_difference_high)}"
    return Bar(
        against=against,
        counts=tuple((name, count, 100 * count / total) for name, count in outcomes),
        win_rate=percent(comparison.win_rate),
        interval=f"{percent(comparison.win_rate_low)} to {percent(comparison.win_rate_high)}",
        low=low,
        rate=rate,
        high=high,
        change=f"{number(comparison.mean_difference)} ({bounds})",
    )


@dataclass(frozen=True)
class CalibrationRow:
    """One judge's agreement with people."""

    judge: str
    pairs: str
    accuracy: str
    interval: str
    verdict: str
    passed: bool


def calibration_row(calibration: Calibration, decision: GateDecision) -> CalibrationRow:
    """Figures of one judge with what the gate made of them."""
    check = next((c for c in decision.checks if c.name == f"may_vote:{calibration.judge}"), None)
    return CalibrationRow(
        judge=calibration.judge,
        pairs=f"{calibration.num_pairs} ({calibration.num_human_ties} ties left out)",
        accuracy=percent(calibration.accuracy),
        interval=f"{percent(calibration.accuracy_low)} to {percent(calibration.accuracy_high)}",
        verdict=check.explanation if check else "The gate did not ask it.",
        passed=bool(check and check.passed),
    )


# --- pictures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One prompt with both images."""

    prompt: str
    differences: tuple[tuple[str, str], ...]
    champion: str
    candidate: str


def extremes_by_end(folder: Path) -> list[tuple[str, list[Example]]]:
    """Titled groups of prompts; empty when the evaluation wrote none."""
    path = folder / EXTREMES_FILE
    if not path.is_file():
        return []
    found = [Extreme.model_validate(line) for line in json.loads(path.read_text(encoding="utf-8"))]
    groups = [
        (title, [_example(e, folder) for e in found if e.end == end])
        for end, title in (("gain", "Largest gains"), ("loss", "Largest losses"))
    ]
    return [(title, examples) for title, examples in groups if examples]


def _example(extreme: Extreme, folder: Path) -> Example:
    return Example(
        prompt=extreme.prompt,
        differences=tuple((judge, f"{value:+.3g}") for judge, value in extreme.differences.items()),
        champion=data_uri(folder / extreme.champion_image),
        candidate=data_uri(folder / extreme.candidate_image),
    )


def data_uri(path: Path) -> str:
    """A PNG as text; empty when there is none."""
    if not path.is_file():
        return ""
    return data_uri_of(path.read_bytes(), "image/png")


def data_uri_of(content: bytes, kind: str) -> str:
    """A picture as text."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()


@dataclass(frozen=True)
class CurvePlot:
    """A line of the training run, ready to draw."""

    name: str
    points: str
    """SVG polyline coordinates."""
    first: str
    last: str
    steps: str


def curve_plot(name: str, points: Points) -> CurvePlot:
    """Scale finite points to the plot; one point or a constant line is drawn at half height."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return CurvePlot(name, "", "-", "-", "no values")
    steps, values = [x for x, _ in finite], [y for _, y in finite]
    scaled = [(_scaled(x, steps, PLOT_WIDTH), PLOT_HEIGHT - _scaled(y, values, PLOT_HEIGHT)) for x, y in finite]
    return CurvePlot(
        name=name,
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in scaled),
        first=number(values[0]),
        last=number(values[-1]),
        steps=f"steps {steps[0]:g} to {steps[-1]:g}",
    )


def _scaled(value: float, values: Sequence[float], length: float) -> float:
    low, high = min(values), max(values)
    share = (value - low) / (high - low) if high > low else 0.5
    return PLOT_MARGIN + share * (length - 2 * PLOT_MARGIN)


# --- where it comes from ------------------------------------------------------------------------------------------


def lineage(report: EvalReport, decision: GateDecision) -> list[tuple[str, str]]:
    """Everything the verdict rests on, by digest."""
    spec, candidate = report.spec, decision.candidate
    return [
        ("candidate weights", candidate.weights_digest),
        ("champion weights", decision.champion_weights_digest),
        ("base model", spec.base_digest),
        ("training spec", candidate.spec_digest),
        ("training snapshot", candidate.snapshot_digest),
        ("calibration snapshot", spec.snapshot_digest),
        ("prompts", spec.prompts_digest),
        *((f"{kind} {scorer.name}", scorer.weights_digest) for kind, scorer in _scorers(report)),
        ("evaluation spec", spec.digest),
        ("score table", decision.scores_digest),
        ("evaluation report", decision.report_digest),
        ("gate policy", decision.policy_digest),
    ]


def commands(decision: GateDecision) -> list[tuple[str, str]]:
    """How to come to the same verdict: what it does, what to type."""
    project, version = f"projects/{decision.candidate.model}.toml", decision.candidate.version
    return [
        ("Find or make the score table again", f"plumbline evaluate {project} --version {version}"),
        ("Judge it again, from the table alone", f"plumbline gate {project} --version {version}"),
    ]
