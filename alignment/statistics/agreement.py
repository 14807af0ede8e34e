"""Agreement among people, agreement of a judge with people, and the human win rate that follows. Torch-free.

Labels are 1 where the candidate (or the first image) was preferred and 0 where it was not; None is a missing label.
Libraries are imported where they are used: each costs a second or more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class PredictionPowered(NamedTuple):
    """The human win rate estimated from a few human labels and many judge labels."""

    win_rate: float
    low: float
    high: float


def krippendorff_alpha(raters: Sequence[Sequence[int | None]]) -> float:
    """Reliability of nominal labels, one row per rater and one column per pair: 1 is perfect, 0 is chance.

    ValueError when no pair was labelled by two raters.
    """
    import evalica
    import pandas as pd

    table = pd.DataFrame([[np.nan if label is None else label for label in row] for row in raters], dtype=float)
    try:
        return float(evalica.alpha(table, distance="nominal").alpha)
    except (ValueError, evalica.InsufficientRatingsError) as error:
        raise ValueError(f"Krippendorff's alpha needs at least two labels of some pair: {error}") from error


def _fleiss_kappa(raters: Sequence[Sequence[int]]) -> float:
    """Agreement beyond chance of raters who all labelled every pair."""
    from statsmodels.stats.inter_rater import aggregate_raters
    from statsmodels.stats.inter_rater import fleiss_kappa as kappa

    counts, _ = aggregate_raters(np.asarray(raters).T)
    return float(kappa(counts))


def _confusion(judge: Sequence[int], human: Sequence[int]) -> npt.NDArray[np.int64]:
    """Counts by the judge's label (rows) and the human label (columns)."""
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (np.asarray(judge), np.asarray(human)), 1)
    return table


def _cohen_kappa(judge: Sequence[int], human: Sequence[int]) -> float:
    """Agreement of a judge with people beyond chance."""
    from statsmodels.stats.inter_rater import cohens_kappa

    return float(cohens_kappa(_confusion(judge, human)).kappa)


def attenuated_win_rate(human_win_rate: float, accuracy: float) -> float:
    """Return the win rate that a judge of this accuracy and symmetric errors reports for a true human win rate.

    w * a + (1 - w) * (1 - a). A judge far above this line rewards something that people do not.
    """
    return human_win_rate * accuracy + (1 - human_win_rate) * (1 - accuracy)


def disattenuated_win_rate(judge_win_rate: float, accuracy: float) -> float:
    """Return the human win rate that a judge of this accuracy reports as this one, clipped to [0, 1].

    ValueError at an accuracy of one half or less.
    """
    if not accuracy > 0.5:
        raise ValueError(
            f"A judge with accuracy {accuracy:g} carries no information about people. The accuracy must exceed 0.5."
        )
    return min(1.0, max(0.0, (judge_win_rate - (1 - accuracy)) / (2 * accuracy - 1)))


def margin_slope(human: Sequence[int], margins: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of a logistic fit of the human label on a judge's margin.

    A slope that changes between releases calls for a new calibration.
    """
    import statsmodels.api as sm

    fit = sm.Logit(np.asarray(human, dtype=np.float64), sm.add_constant(np.asarray(margins))).fit(disp=0)
    intercept, slope = fit.params
    return float(intercept), float(slope)


def prediction_powered_win_rate(
    human: Sequence[float], judge_labelled: Sequence[float], judge_unlabelled: Sequence[float], *, confidence: float
) -> PredictionPowered:
    """Estimate the human win rate with an interval that is valid whatever the judge's bias.

    `human` and `judge_labelled` are labels of the same prompts, a random sample of all; `judge_unlabelled` are labels
    of the other prompts. A tie is 0.5. Source: Angelopoulos et al. 2023, power-tuned as in ppi-python. ValueError when
    the columns do not match or are too short.
    """
    if len(human) != len(judge_labelled) or len(human) < 2 or len(judge_unlabelled) < 2:
        raise ValueError(
            f"{len(human)} human labels, {len(judge_labelled)} judge labels on the same prompts and"
            f" {len(judge_unlabelled)} on others: give as many of the first two, and at least 2 of each."
        )
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    columns = tuple(np.asarray(labels, dtype=np.float64) for labels in (human, judge_labelled, judge_unlabelled))
    low, high = (float(np.asarray(bound).item()) for bound in ppi_mean_ci(*columns, alpha=1 - confidence))
    return PredictionPowered(float(np.asarray(ppi_mean_pointestimate(*columns)).item()), low, high)
