"""Plot win rates by slice: a dot with its interval for each judge, and a line at 50 %."""

from collections.abc import Sequence

from pipelines.release.pages.drawing import FAINT, SERIES, as_percent, drawn, plain, short
from pipelines.release.pages.slices import SliceRow

SPREAD = 0.5
"""Share of a row's height over which its judges are spread."""


def plot_slices(rows: Sequence[SliceRow], judges: Sequence[str], opponent: str) -> bytes:
    """Return an SVG with one row per slice and the win rate against the opponent on the x axis. `judges` are the first
    columns of the rows."""
    inches = 1.0 + len(rows) * max(0.34, 0.17 * len(judges))
    with drawn("slices", inches) as (figure, buffer):
        axes = figure.subplots()
        axes.axvline(0.5, color=FAINT, linewidth=1)
        for number, judge in enumerate(judges):
            colour = SERIES[number % len(SERIES)]
            offset = 0.0 if len(judges) == 1 else SPREAD * (number / (len(judges) - 1) - 0.5)
            heights = [index + offset for index in range(len(rows))]
            cells = [row.cells[number] for row in rows]
            axes.hlines(heights, [c.low for c in cells], [c.high for c in cells], color=colour, linewidth=1.6)
            axes.plot([c.rate for c in cells], heights, "o", color=colour, markersize=5, label=short(judge))
        axes.set_yticks(range(len(rows)), [f"{short(row.name)}  ({row.prompts})" for row in rows])
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel=f"win rate against the {opponent}")
        axes.xaxis.set_major_formatter(as_percent)
        plain(axes)
        axes.grid(visible=False, axis="y")
        figure.legend(frameon=False, loc="outside upper right", ncols=4)
    return buffer.getvalue()
