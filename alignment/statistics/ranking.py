"""Rank several model versions by pairwise outcomes, and compare two models on every image. Torch-free.

The gate never uses these: it compares two models prompt by prompt. They rank many versions for human readers.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from alignment.statistics.comparison import DIFFERENCE_DECIMALS, Floats, outcome_counts

_GameOutcome = Literal["x", "y", "tie"]
Game = tuple[str, str, _GameOutcome]
"""First model, second model, winner."""

SOLVER_TOLERANCE = 1e-10
SOLVER_STEPS = 10_000


def _bradley_terry(games: Sequence[Game]) -> dict[str, float]:
    """Log strengths, mean zero, best first; a tie is half a win for each side. Source: evalica."""
    import evalica

    result = evalica.bradley_terry(*_columns(games), tolerance=SOLVER_TOLERANCE, limit=SOLVER_STEPS)
    return _centred_logs(dict(result.scores))


def _bradley_terry_decided(games: Sequence[Game]) -> dict[str, float]:
    """The same from decided games only: the maximum-likelihood strengths of the model without ties."""
    return _bradley_terry([game for game in games if game[2] != "tie"])


def _newman(games: Sequence[Game]) -> dict[str, float]:
    """Log strengths, mean zero, of Newman's model, which has a separate parameter for ties.

    Without ties it equals Bradley-Terry, which is used then, because the library's solver does not leave its start
    there.
    """
    if all(game[2] != "tie" for game in games):
        return _bradley_terry(games)
    import evalica

    result = evalica.newman(*_columns(games), tolerance=SOLVER_TOLERANCE, limit=SOLVER_STEPS)
    return _centred_logs(dict(result.scores))


def _average_win_rates(games: Sequence[Game]) -> dict[str, float]:
    """Mean over opponents of the share of games won, best first; a tie is half a win."""
    import evalica

    scores = dict(evalica.average_win_rate(*_columns(games)).scores)
    return {str(name): float(scores[name]) for name in sorted(scores, key=lambda n: -scores[n])}


def _columns(games: Sequence[Game]) -> tuple[list[str], list[str], list[Any]]:
    import evalica

    if not games:
        raise ValueError("A ranking needs at least one game.")
    winners = {"x": evalica.Winner.X, "y": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    unknown = sorted({game[2] for game in games} - set(winners))
    if unknown:
        raise ValueError(f"Unknown outcomes {', '.join(unknown)}. Known: tie, x, y.")
    return [game[0] for game in games], [game[1] for game in games], [winners[game[2]] for game in games]


def _centred_logs(strengths: dict[str, float]) -> dict[str, float]:
    logs = {str(name): float(np.log(value)) for name, value in strengths.items()}
    mean = sum(logs.values()) / len(logs)
    return {name: logs[name] - mean for name in sorted(logs, key=lambda n: -logs[n])}


class _PooledOutcomes(NamedTuple):
    """Share of won (prompt, seed) cells, with an interval that resamples complete prompts."""

    wins: int
    ties: int
    losses: int
    win_rate: float
    """Share of won cells; a tie counts half."""
    low: float
    high: float


def _pooled_outcomes(
    candidate_PS: Floats, other_PS: Floats, *, tie_threshold: float, confidence: float, resamples: int = 5000
) -> _PooledOutcomes:
    """The share of images won, for comparison with papers that report it.

    Cells of a prompt are not independent, so the interval is a percentile bootstrap over prompts, seeded.
    """
    differences_PS = np.round(candidate_PS - other_PS, DIFFERENCE_DECIMALS)
    wins, ties, losses = outcome_counts(differences_PS.ravel(), tie_threshold)
    outcomes_PS = np.where(np.abs(differences_PS) <= tie_threshold, 0.5, (differences_PS > 0).astype(np.float64))
    per_prompt = outcomes_PS.mean(axis=1)
    rng = np.random.default_rng(0)
    means = [per_prompt[rng.integers(0, len(per_prompt), len(per_prompt))].mean() for _ in range(resamples)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return _PooledOutcomes(wins, ties, losses, float(per_prompt.mean()), float(low), float(high))
