"""How far a judge agrees with held-out human pairs: what earns it a vote. Torch-free."""

from collections.abc import Sequence

import numpy as np

from alignment.contracts import Calibration


def calibrate(
    judge: str,
    *,
    score_chosen: Sequence[float],
    score_rejected: Sequence[float],
    is_human_tie: Sequence[bool],
    confidence: float,
) -> Calibration:
    """Pairwise accuracy of a judge on the snapshot's calibration split, with Wilson bounds.

    Pairs on which people saw no difference are left out; equal scores count as half right. The tie threshold of the
    comparison is not applied: it belongs to means over seeds, and here each score is of one image. Counting a half
    as half a success overstates the variance a little, so the bounds err on the wide side. Without pairs the judge is
    unknown: accuracy 0.5 between 0 and 1.
    Raises ValueError when the columns differ in length or a score is not finite.
    """
    if not len(score_chosen) == len(score_rejected) == len(is_human_tie):
        raise ValueError(
            f"Judge {judge!r}: {len(score_chosen)} chosen scores, {len(score_rejected)} rejected scores and"
            f" {len(is_human_tie)} tie marks. Give one of each per pair."
        )
    # Here, not above: statsmodels brings pandas, which a DAG file must not import.
    from statsmodels.stats.proportion import proportion_confint

    decided = ~np.asarray(is_human_tie, dtype=bool)
    margins = np.asarray(score_chosen, dtype=np.float64)[decided] - np.asarray(score_rejected, np.float64)[decided]
    if not np.isfinite(margins).all():
        bad = int((~np.isfinite(margins)).sum())
        raise ValueError(f"Judge {judge!r}: {bad} of {len(margins)} calibration scores are not finite.")
    pairs = len(margins)
    right = float((margins > 0).sum() + 0.5 * (margins == 0).sum())
    low, high = proportion_confint(right, pairs, alpha=1 - confidence, method="wilson") if pairs else (0.0, 1.0)
    return Calibration(
        judge=judge,
        num_pairs=pairs,
        num_human_ties=len(is_human_tie) - pairs,
        accuracy=right / pairs if pairs else 0.5,
        accuracy_low=float(low),
        accuracy_high=float(high),
    )
