"""Plot the training run's metrics, three plots in a row."""

from collections.abc import Mapping

from pipelines.release.pages.drawing import INK, SERIES, drawn, plain
from pipelines.release.pages.training import Points, thinned

COLUMNS = 3
MOST_POINTS = 300
SMOOTH_POINTS = 25
"""Points of the bold line, each the mean of its part of the run."""


def plot_curves(curves: Mapping[str, Points]) -> bytes:
    """Return an SVG of each metric against the step, as logged and as means of neighbouring points."""
    lines = -(-len(curves) // COLUMNS)
    with drawn("curves", 0.3 + 2.0 * lines) as (figure, buffer):
        grid = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
        for axes in grid[len(curves) :]:
            axes.set_axis_off()
        for axes, (name, points) in zip(grid, curves.items(), strict=False):
            fine, coarse = thinned(points, MOST_POINTS), thinned(points, SMOOTH_POINTS)
            axes.plot(*zip(*fine, strict=True), color=SERIES[0], alpha=0.3, linewidth=0.8)
            axes.plot(
                *zip(*coarse, strict=True), color=SERIES[0], linewidth=1.6, marker="." if len(coarse) == 1 else ""
            )
            axes.set_title(name.replace("_", " "), fontsize=9, color=INK, loc="left")
            axes.tick_params(labelsize=8)
            plain(axes)
    return buffer.getvalue()
