"""Rank pairs by a judge instead of a person: the AI-feedback variant of Diffusion-DPO. Torch-free."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _ProxyVote:
    """A judge's verdict on one pair, in the order in which the source gave its images."""

    preferred: int
    """0 or 1. In a tie 0, the source's order, which then carries no information."""
    is_tie: bool

    @property
    def preference(self) -> float:
        """In the format of human labels: 1 when image 0 is preferred, 0 when image 1 is, 0.5 for a tie."""
        return 0.5 if self.is_tie else 1.0 - self.preferred


def proxy_votes(scores_0: Sequence[float], scores_1: Sequence[float]) -> list[_ProxyVote]:
    """Rank each pair by its two scores: image 1 is preferred only where its score is strictly greater.

    Scores are one judge's on one prompt, higher is better; only their order counts, so the judge's scale does not.
    Source: the authors' train.py (`--choice_model`), which swaps a pair when the second score is greater. Departure:
    equal scores are flagged, so that they can be dropped as human ties are; the authors train on image 0 there.
    ValueError when the two lists differ in length or a score is not finite.
    """
    if len(scores_0) != len(scores_1):
        raise ValueError(
            f"{len(scores_0)} scores of images 0 and {len(scores_1)} of images 1: give one of each per pair."
        )
    bad = [row for row, both in enumerate(zip(scores_0, scores_1, strict=True)) if not all(map(math.isfinite, both))]
    if bad:
        row = bad[0]
        raise ValueError(
            f"{len(bad)} of {len(scores_0)} pairs have a score that is not finite, first pair {row}: {scores_0[row]}"
            f" and {scores_1[row]}. Check the judge on these images, or leave the pairs out."
        )
    return [_ProxyVote(int(second > first), first == second) for first, second in zip(scores_0, scores_1, strict=True)]
