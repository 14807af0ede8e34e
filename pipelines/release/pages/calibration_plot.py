"""Plot the attenuation line of each judge, with its measured win rate on it."""

from collections.abc import Sequence

from alignment.statistics.agreement import attenuated_win_rate, disattenuated_win_rate
from pipelines.release.pages.drawing import FAINT, SERIES, as_percent, drawn, plain, short
from pipelines.release.pages.judges import Attenuation


def plot_attenuation(lines: Sequence[Attenuation]) -> bytes:
    """Return an SVG with the human win rate on the x axis and the judge's on the y axis.

    A dot above the end of its line cannot be explained by human preference and random errors.
    """
    with drawn("attenuation", 3.6) as (figure, buffer):
        axes = figure.subplots()
        axes.axhline(0.5, color=FAINT, linewidth=0.8)
        axes.axvline(0.5, color=FAINT, linewidth=0.8)
        for number, line in enumerate(lines):
            colour = SERIES[number % len(SERIES)]
            ends = [attenuated_win_rate(human, line.accuracy) for human in (0.0, 1.0)]
            label = f"{short(line.judge)}, {line.accuracy:.0%} agreement"
            axes.plot([0, 1], ends, color=colour, linewidth=1.2, label=label)
            if line.accuracy > 0.5:
                fits = disattenuated_win_rate(line.rate, line.accuracy)
                axes.vlines(fits, line.low, line.high, color=colour, linewidth=1.6)
                axes.plot([fits], [line.rate], "o", color=colour, markersize=6)
        axes.set(
            xlim=(-0.02, 1.02), ylim=(0, 1), xlabel="human win rate of the candidate", ylabel="win rate under the judge"
        )
        axes.xaxis.set_major_formatter(as_percent)
        axes.yaxis.set_major_formatter(as_percent)
        plain(axes)
        axes.legend(frameon=False, loc="upper left")
    return buffer.getvalue()
