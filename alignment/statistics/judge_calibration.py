"""Agreement of a judge with people by source and by generators, and of people with each other. Torch-free."""

import logging
import warnings
from collections.abc import Sequence

import numpy as np

from alignment.contracts.calibration import AgreementSlice, CalibrationSpec, JudgeCalibration, RaterReliability
from alignment.contracts.judges import Judge
from alignment.data.human_labels import Ballot
from alignment.statistics.agreement import krippendorff_alpha, margin_slope
from alignment.statistics.human_pairs import PairFacts, ScoredPair, agreement, held_out, majorities

logger = logging.getLogger(__name__)

MINIMUM_SLOPE_PAIRS = 30
TIE = 2
"""Label of a tie in the raters' table, where 1 and 0 are the first and the second image."""


def calibrate_judge(
    judge: Judge, pairs: Sequence[ScoredPair], facts: dict[str, PairFacts], spec: CalibrationSpec
) -> JudgeCalibration:
    """Compute every figure of one judge; ValueError when a score is not finite."""
    dates = [date for pair in pairs if (date := facts[pair.pair_id].created_at) is not None]
    kept = [pair for pair in pairs if held_out(judge, facts[pair.pair_id])]
    return JudgeCalibration(
        judge=judge,
        snapshot_digest=spec.snapshot_digest,
        confidence=spec.confidence,
        tie_rule=spec.tie_rule,
        overall=agreement(judge, pairs, facts, confidence=spec.confidence),
        slices=tuple(_slices(judge, kept, facts, confidence=spec.confidence)),
        margin_slope=_slope([pair for pair, _ in majorities(kept, facts)]),
        newest_pair_at=max(dates, default=None),
    )


def _slices(
    judge: Judge, pairs: Sequence[ScoredPair], facts: dict[str, PairFacts], *, confidence: float
) -> list[AgreementSlice]:
    parts: dict[tuple[str, str], list[ScoredPair]] = {}
    for pair in pairs:
        own = facts[pair.pair_id]
        parts.setdefault(("source", own.source), []).append(pair)
        parts.setdefault(("generators", own.generators), []).append(pair)
    ordered = sorted(parts.items(), key=lambda part: (part[0][0], -len(part[1]), part[0][1]))
    return [
        AgreementSlice.model_validate(
            {"by": by, "name": part, "agreement": agreement(judge, own, facts, confidence=confidence)}
        )
        for (by, part), own in ordered
    ]


def _slope(pairs: Sequence[ScoredPair]) -> float | None:
    """Fit the slope, with every other pair swapped since a fit needs both labels; none for a perfect judge."""
    margins = np.array([pair.score_chosen - pair.score_rejected for pair in pairs if not pair.is_tie])
    spread = float(margins.std()) if margins.size else 0.0
    if margins.size < MINIMUM_SLOPE_PAIRS or not spread:
        return None
    from statsmodels.tools.sm_exceptions import ModelWarning, PerfectSeparationError

    signs = np.where(np.arange(margins.size) % 2, -1.0, 1.0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ModelWarning)
            _, slope = margin_slope([int(sign > 0) for sign in signs], (margins * signs / spread).tolist())
    except (ModelWarning, PerfectSeparationError, np.linalg.LinAlgError) as error:
        logger.warning("no slope of the judge's margin: %s", error)
        return None
    return slope


def rater_reliability(ballots: Sequence[Ballot]) -> RaterReliability:
    """Krippendorff's alpha over the comparisons that two people or more labelled.

    Alpha depends only on the labels that a comparison has, not on who gave them. So all first labels form one row of
    the table and all second labels the next. Rows without an annotator are left out: they might be from one person.
    """
    labels: dict[str, dict[str, int]] = {}
    for ballot in ballots:
        if ballot.annotator_id:
            label = TIE if ballot.is_tie else int(ballot.chosen_is_first)
            labels.setdefault(ballot.item, {})[ballot.annotator_id] = label
    shared = [list(own.values()) for own in labels.values() if len(own) > 1]
    most = max(map(len, shared), default=0)
    table = [[own[rater] if rater < len(own) else None for own in shared] for rater in range(most)]
    same = len({label for own in shared for label in own}) == 1
    return RaterReliability(
        num_shared_pairs=len(shared),
        num_labels=sum(map(len, shared)),
        # When only one label occurs, agreement cannot be distinguished from chance.
        alpha=krippendorff_alpha(table) if shared and not same else None,
    )
