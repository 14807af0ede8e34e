"""Render a data report as one self-contained HTML file: styles inline, pictures as data URIs, no script.

jinja2 escapes all external text (prompts, names, annotators). The same report gives the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.contracts.data import SPLITS
from pipelines.contracts.data_report import DataReport, DriftRow
from pipelines.intake.report.drift import MINIMUM_MOVE, MOST_ROWS
from pipelines.intake.report.examples import Example
from pipelines.intake.report.figures import MOST_ANNOTATORS, UNITS
from pipelines.pages.page import page_environment

_SHORT = 12
_MOST_DRIFT = 25
"""Categories without drift that the page lists; the JSON has more."""


@dataclass(frozen=True)
class _Bar:
    """One category of a property."""

    name: str
    numbers: tuple[int, ...]
    """In the order of SPLITS."""
    total: int
    share: str
    width: str
    """Percentage of the most frequent category."""


def render_page(report: DataReport, examples: Sequence[Example]) -> str:
    """Return the HTML page of a report."""
    template = page_environment(Path(__file__).parent).get_template("data_report.html.j2")
    drifted = [row for row in report.drift if row.has_drifted]
    small = [row for row in report.drift if not row.has_drifted]
    return template.render(
        report=report,
        figures=report.figures,
        aside=report.set_aside,
        splits=SPLITS,
        properties=[(name, UNITS[name], _bars(report, name)) for name in UNITS if report.figures.counts.get(name)],
        examples=examples,
        drifted=drifted,
        drift_rows=[*drifted, *small[:_MOST_DRIFT]],
        headline=_headline(report, drifted),
        short=_SHORT,
        percent=percent,
        points=f"{100 * MINIMUM_MOVE:.0f}",
        most_annotators=MOST_ANNOTATORS,
        most_rows=MOST_ROWS,
        is_local=report.snapshot_uri.startswith("file://"),
    )


def percent(share: float | None) -> str:
    """Format a share as percent with one decimal; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _headline(report: DataReport, drifted: Sequence[DriftRow]) -> str:
    """Return the most important facts as one sentence."""
    aside = report.set_aside
    rest = aside.num_rows - aside.num_in_snapshot
    single = f" and {report.figures.num_unpaired} unpaired rows" if report.figures.num_unpaired else ""
    parts = [f"{report.figures.num_pairs} pairs{single} of {aside.num_rows} rows; {rest} rows are not in the snapshot."]
    if report.previous_digest is None:
        parts.append("There is no earlier report to compare it with.")
    elif drifted:
        names = ", ".join(dict.fromkeys(row.property for row in drifted))
        parts.append(f"Since the previous snapshot these have drifted: {names}.")
    else:
        parts.append("Nothing has drifted since the previous snapshot.")
    return " ".join(parts)


def _bars(report: DataReport, name: str) -> list[_Bar]:
    rows = {c: tuple(n.get(split, 0) for split in SPLITS) for c, n in report.figures.counts[name].items()}
    whole = sum(map(sum, rows.values()))
    most = max(map(sum, rows.values()), default=0)
    return [
        _Bar(category, numbers, sum(numbers), percent(sum(numbers) / whole), f"{100 * sum(numbers) / most:.1f}")
        for category, numbers in rows.items()
        if most
    ]
