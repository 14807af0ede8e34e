"""Agreement of a judge with held-out human pairs, which decides whether the judge has a vote. Torch-free.

P counts decided pairs, C their distinct prompts.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alignment.contracts.calibration import Calibration


def calibrate(
    judge: str,
    *,
    score_chosen: Sequence[float],
    score_rejected: Sequence[float],
    is_human_tie: Sequence[bool],
    confidence: float,
    groups: Sequence[str] | None = None,
) -> Calibration:
    """Pairwise accuracy of a judge on the snapshot's calibration split, with Wilson bounds.

    `groups` are the pairs' prompts. Pairs of one group are not independent evidence, so the bounds are those of
    `_effective_pairs` independent pairs. Without groups every pair counts as its own group.

    Pairs that people tied are left out; equal scores count as half right. The tie threshold of the comparison is not
    applied: it refers to means over seeds, while here each score is of one image. Counting a half as half a success
    overstates the variance a little, so the bounds err on the wide side. Without pairs the judge is unknown: accuracy
    0.5 between 0 and 1. Raises ValueError when the columns differ in length or a score is not finite.
    """
    if not len(score_chosen) == len(score_rejected) == len(is_human_tie) == len(groups or is_human_tie):
        raise ValueError(
            f"Judge {judge!r}: {len(score_chosen)} chosen scores, {len(score_rejected)} rejected scores and"
            f" {len(is_human_tie)} tie marks. Give one of each per pair."
        )
    # Imported here, not above: statsmodels loads pandas, which a DAG file must not import.
    from statsmodels.stats.proportion import proportion_confint

    decided = ~np.asarray(is_human_tie, dtype=bool)
    with np.errstate(invalid="ignore"):  # infinity less infinity, which is reported below
        margins = np.asarray(score_chosen, dtype=np.float64)[decided] - np.asarray(score_rejected, np.float64)[decided]
    if not np.isfinite(margins).all():
        bad = int((~np.isfinite(margins)).sum())
        raise ValueError(f"Judge {judge!r}: {bad} of {len(margins)} calibration scores are not finite.")
    pairs = len(margins)
    right_P = (margins > 0) + 0.5 * (margins == 0)
    right = float(right_P.sum())
    low, high = 0.0, 1.0
    if pairs:
        own = np.arange(pairs) if groups is None else np.unique(np.asarray(groups)[decided], return_inverse=True)[1]
        effective = _effective_pairs(right_P, own, confidence=confidence)
        low, high = proportion_confint(right / pairs * effective, effective, alpha=1 - confidence, method="wilson")
    return Calibration(
        judge=judge,
        num_pairs=pairs,
        num_human_ties=len(is_human_tie) - pairs,
        accuracy=right / pairs if pairs else 0.5,
        accuracy_low=float(low),
        accuracy_high=float(high),
    )


def _effective_pairs(right_P: npt.NDArray[np.float64], group_P: npt.NDArray[np.int64], *, confidence: float) -> float:
    """Return the number of independent pairs that would measure the accuracy as precisely as these do; at most P.

    `right_P` is 1, 0 or 0.5, `group_P` the number of each pair's prompt. P is divided by the design effect (variance of
    the accuracy as a ratio of sums over prompts, divided by that of independent pairs, at least 1). It is also divided
    by the squared ratio of Student's quantiles for C and for P, since few prompts estimate their own spread badly.
    Source: Korn and Graubard 1998, Survey Methodology 24. A judge that is always right or always wrong shows no spread:
    the pairs of one prompt then count as one, weighted by size (Kish).
    """
    # Imported here for the reason given above.
    from scipy import stats

    pairs = len(right_P)
    size_C, right_C = np.bincount(group_P), np.bincount(group_P, weights=right_P)
    prompts, accuracy = len(size_C), float(right_P.mean())
    if prompts == pairs:
        return float(pairs)
    if prompts == 1:
        return 1.0
    independent = pairs * accuracy * (1 - accuracy)
    if independent > 0:
        spread = float(((right_C - accuracy * size_C) ** 2).sum()) * prompts / (prompts - 1) * (pairs - 1) / pairs
        effective = pairs / max(1.0, spread / independent)
    else:
        effective = pairs**2 / float((size_C**2).sum())
    few, many = (float(stats.t.ppf((1 + confidence) / 2, count - 1)) for count in (prompts, pairs))
    return max(1.0, effective * (many / few) ** 2)
