"""The picture of the coverage curves: deterministic, every model named, bands where the report has them."""

import re

from alignment.contracts.coverage import CoverageReport
from pipelines.release.pages.coverage_plot import plot_coverage


def test_the_same_report_gives_the_same_bytes(coverage_report: CoverageReport) -> None:
    assert plot_coverage(coverage_report) == plot_coverage(coverage_report)


def test_it_shows_every_model_and_reaches_outside_for_nothing(coverage_report: CoverageReport) -> None:
    svg = plot_coverage(coverage_report).decode()
    assert ">candidate</text>" in svg
    assert ">champion = base</text>" in svg
    assert not re.findall(r"(?:href|src)=\"(?!#)[^\"]*\"", svg)
    assert "<script" not in svg
    assert "$" not in svg, "mathematics, which is not read as such"


def test_another_curve_is_another_picture(coverage_report: CoverageReport) -> None:
    first = coverage_report.curves[0]
    higher = tuple(p.model_copy(update={"coverage": p.coverage_high}) for p in first.points)
    changed = first.model_copy(update={"points": higher})
    other = coverage_report.model_copy(update={"curves": (changed, *coverage_report.curves[1:])})
    assert plot_coverage(other) != plot_coverage(coverage_report)
