"""Draw SVG plots in the report's colours; the same numbers give the same bytes.

Text stays text in the SVG, so the reader's browser finds a font for any script; matplotlib's font only measures it.
Text is never parsed as mathematics, because names of slices come from outside.
"""

import io
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT = "#1c2026", "#5c6672", "#8a94a0"
SERIES = ("#2557a7", "#96690a", "#1a7f4b", "#8d3b8f", "#b3382c", "#3a8fa3", "#6b6f1d", "#5c6672")
"""Colours of judges, in order; the ninth judge gets the first colour again."""
WIDTH_INCHES = 9.6
LONGEST_NAME = 36
"""Most columns of a name in a drawing; the tables show the full name."""


@contextmanager
def drawn(name: str, height_inches: float, width_inches: float = WIDTH_INCHES) -> Iterator[tuple["Figure", io.BytesIO]]:
    """Yield a figure to draw on and a buffer that contains its SVG afterwards.

    `name` salts the ids in the file: with a fixed salt and no date, the same numbers give the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with (
        warnings.catch_warnings(),
        rc_context(
            {
                "svg.hashsalt": name,
                "svg.fonttype": "none",
                "text.parse_math": False,
                "font.size": 10,
                "axes.edgecolor": FAINT,
                "axes.labelcolor": SOFT,
                "text.color": INK,
                "xtick.color": SOFT,
                "ytick.color": SOFT,
            }
        ),
    ):
        # For a missing glyph matplotlib measures a box, which is wide enough for any letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure, buffer = Figure(figsize=(width_inches, height_inches), layout="constrained"), io.BytesIO()
        yield figure, buffer
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name for a drawing: one line, cut to at most `longest` columns."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    if sum(map(_columns, line)) <= longest:
        return line
    kept, left = "", longest - 1
    for letter in line:
        left -= _columns(letter)
        if left < 0:
            break
        kept += letter
    return kept.rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _columns(letter: str) -> int:
    """Return the width of a letter: East Asian letters and pictographs are twice as wide as others."""
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def plain(axes: "Axes") -> None:
    """Remove the frame except for the two axes, and add a faint grid."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def as_percent(share: float, _position: float) -> str:
    """Format a tick label as percent."""
    return f"{100 * share:.0f} %"
