"""Drawings: SVG bytes that depend on the numbers alone, in the report's colours."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT = "#1c2026", "#5c6672", "#8a94a0"
SERIES = ("#2557a7", "#96690a", "#1a7f4b", "#8d3b8f", "#b3382c", "#3a8fa3", "#6b6f1d", "#5c6672")
"""Colours of judges, in their order; the ninth takes the first again."""
WIDTH_INCHES = 9.6


@contextmanager
def drawn(name: str, height_inches: float, width_inches: float = WIDTH_INCHES) -> Iterator[tuple["Figure", io.BytesIO]]:
    """A figure to draw on, whose SVG is in the buffer afterwards.

    `name` salts the ids in the file: with a fixed salt and no date the same numbers give the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "svg.hashsalt": name,
            "font.size": 10,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": SOFT,
            "text.color": INK,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
        }
    ):
        figure, buffer = Figure(figsize=(width_inches, height_inches), layout="constrained"), io.BytesIO()
        yield figure, buffer
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})


def plain(axes: "Axes") -> None:
    """No frame but the axes, a faint grid."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def as_percent(share: float, _position: float) -> str:
    """Tick label."""
    return f"{100 * share:.0f} %"
