"""Plot the coverage curves of repeated sampling."""

from typing import TYPE_CHECKING

from alignment.contracts.coverage import CoverageCurve, CoverageReport
from pipelines.release.pages.drawing import as_percent, drawn, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"candidate": "#2557a7", "champion": "#96690a", "base": "#8a94a0"}


def labelled_curves(report: CoverageReport) -> list[tuple[str, CoverageCurve]]:
    """Return the curve of each distinct model, labelled with all its roles."""
    roles: dict[str, list[CoverageCurve]] = {}
    for curve in report.curves:
        roles.setdefault(report.spec.models()[curve.role].weights_digest, []).append(curve)
    return [(" = ".join(curve.role for curve in curves), curves[0]) for curves in roles.values()]


def plot_coverage(report: CoverageReport) -> bytes:
    """Return an SVG of coverage against the number of images, with a confidence band for each model."""
    with drawn("coverage", 3.4) as (figure, buffer):
        axes = figure.subplots()
        for label, curve in labelled_curves(report):
            _draw(axes, label, curve)
        most = len(report.spec.seeds)
        axes.set_xscale("log", base=2)
        ticks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= most]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set(xlabel="images per prompt (N)", ylabel="at least one good image", ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(as_percent)
        plain(axes)
        axes.legend(frameon=False, loc="upper left")
    return buffer.getvalue()


def _draw(axes: "Axes", label: str, curve: CoverageCurve) -> None:
    colour, samples = COLOURS[curve.role], [point.num_samples for point in curve.points]
    axes.fill_between(
        samples,
        [point.coverage_low for point in curve.points],
        [point.coverage_high for point in curve.points],
        color=colour,
        alpha=0.13,
        linewidth=0,
    )
    shown = [point.coverage for point in curve.points]
    axes.plot(samples, shown, color=colour, label=label, marker="o", markersize=3)
