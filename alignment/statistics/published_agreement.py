"""Definitions by which published papers count a judge's agreement with people. Torch-free.

One set of scores gives four figures under these definitions, so a published accuracy is meaningful only with its own.
The gate uses none of them (it uses `alignment.statistics.calibration`); they serve to compare with papers.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple


class _Ranking(NamedTuple):
    """One prompt's images: people's ranks (1 is best, equal ranks are ties) and a judge's scores (higher is better)."""

    human_rank: Sequence[float]
    score: Sequence[float]


def _imagereward_accuracy(rankings: Sequence[_Ranking]) -> float:
    """Share of correctly ordered pairs, pooled over prompts, among pairs that people ranked; a judge's tie is wrong.

    Source: ImageReward's test.py. NaN when people ranked no pair.
    """
    return _share([right for ranking in rankings for right in _ranked_pairs(ranking)])


def _hpsv2_accuracy(ranking: _Ranking) -> float:
    """The same share within one prompt, as HPSv2 evaluates on ImageReward's test; its benchmark is the mean."""
    return _share(list(_ranked_pairs(ranking)))


def _hpsv2_predicted_ranks(ranking: _Ranking) -> list[int]:
    """Strict ranks, 0 for the highest score; among equal scores the earlier image ranks first."""
    order = sorted(range(len(ranking.score)), key=lambda index: -ranking.score[index])
    return [order.index(index) for index in range(len(order))]


def _hpsv2_inversion(ranking: _Ranking) -> float:
    """1 - discordant / all pairs of one prompt, on strict predicted ranks: people's ties count as agreement.

    Source: HPSv2's train.py; the benchmark is the mean over prompts. NaN for a single image.
    """
    return _concordance(ranking.human_rank, _hpsv2_predicted_ranks(ranking))


def _mps_inversion(ranking: _Ranking) -> float:
    """1 - discordant / all pairs of one prompt, on the scores: ties of either kind count as agreement."""
    return _concordance(ranking.human_rank, [-score for score in ranking.score])


def _pickscore_accuracy(first_wins: Sequence[float], labels: Sequence[float], tie_threshold: float) -> float:
    """Mean credit per pair: 1 for the same label, one half when exactly one of the two is a tie.

    `first_wins` is the probability that image 0 is picked; the judge ties where it and its complement differ by
    no more than the threshold. `labels` are 1, 0 or 0.5 for a tie. Source: PickScore's evaluation script.
    """
    predicted = [0.5 if abs(2 * p - 1) <= tie_threshold else float(p > 0.5) for p in first_wins]
    return _mean([1 - abs(prediction - label) for prediction, label in zip(predicted, labels, strict=True)])


def _pickscore_chance(labels: Sequence[float], tie_threshold: float) -> float:
    """Expected accuracy of a probability drawn uniformly from [0, 1]: one half, more where ties match ties."""
    ties = _mean([float(label == 0.5) for label in labels])
    return 0.5 + 0.5 * tie_threshold * ties


def _ranked_pairs(ranking: _Ranking) -> Iterator[bool]:
    """True where the judge orders the pair as people do, for each pair that people did not tie."""
    for i, j in combinations(range(len(ranking.score)), 2):
        rank, score = ranking.human_rank, ranking.score
        if rank[i] != rank[j]:
            yield score[i] != score[j] and (score[i] > score[j]) == (rank[i] < rank[j])


def _concordance(one: Sequence[float], other: Sequence[float]) -> float:
    return _share([(one[i] - one[j]) * (other[i] - other[j]) >= 0 for i, j in combinations(range(len(one)), 2)])


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else float("nan")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
