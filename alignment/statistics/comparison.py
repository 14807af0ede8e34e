"""Compare the candidate with another model, prompt by prompt. Torch-free: the control plane can recompute it.

The unit is the prompt: scores are averaged over seeds first, then subtracted (candidate minus other), and every
interval is over prompts. Pooling (prompt, seed) cells as if independent would make the intervals too narrow.
Shape letters: P prompts, S seeds. numpy and the standard library suffice here except for the Wilcoxon test and the
t quantile; scipy is imported where those are computed, because it costs a second and DAG files import this package.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alignment.contracts.evaluation import Comparison

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

OPPONENTS: tuple[Literal["champion"], Literal["base"]] = ("champion", "base")
SCORE_COLUMNS = ("role", "scorer", "prompt_index", "seed", "score")

# float32 scores averaged over seeds differ in their last bits; rounding to nine places keeps that from breaking ties.
DIFFERENCE_DECIMALS = 9


@dataclass(frozen=True)
class ScoreTable:
    """The columns of scores.parquet that the statistics need: one row per (role, scorer, prompt, seed)."""

    role: Strings
    scorer: Strings
    prompt_index: Integers
    seed: Integers
    score: Floats
    category: Strings = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    """The prompt's slice; empty where the columns have none."""

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> "ScoreTable":
        """Build from plain columns. Raises ValueError for a missing column or unequal lengths.

        A missing score (None) becomes NaN here and raises an error where it is used.
        """
        missing = [name for name in SCORE_COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"Score table lacks {', '.join(missing)}. It needs: {', '.join(SCORE_COLUMNS)}.")
        lengths = {name: len(columns[name]) for name in SCORE_COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Score table columns differ in length: {lengths}. Give one value per row in each.")
        return cls(
            role=np.asarray(columns["role"], dtype=np.str_),
            scorer=np.asarray(columns["scorer"], dtype=np.str_),
            prompt_index=np.asarray(columns["prompt_index"], dtype=np.int64),
            seed=np.asarray(columns["seed"], dtype=np.int64),
            score=np.asarray(columns["score"], dtype=np.float64),
            category=np.asarray(columns.get("category", ()), dtype=np.str_),
        )

    def scorers(self) -> list[str]:
        """Distinct names, sorted."""
        return sorted(str(name) for name in np.unique(self.scorer))


@dataclass(frozen=True)
class SeedGrid:
    """One model's scores under one scorer, complete and finite."""

    prompts_P: Integers
    seeds_S: Integers
    scores_PS: Floats

    def prompt_means(self) -> Floats:
        """Mean over seeds, one number per prompt."""
        return np.asarray(self.scores_PS.mean(axis=1), dtype=np.float64)


def seed_grid(table: ScoreTable, scorer: str, role: str) -> SeedGrid:
    """Return the complete prompts x seeds grid of one model under one scorer.

    Raises ValueError when there is no row, a score is not finite, or a (prompt, seed) cell is missing or duplicated: a
    dropped cell would change the sample that the interval describes.
    """
    rows = (table.scorer == scorer) & (table.role == role)
    prompt, seed, score = table.prompt_index[rows], table.seed[rows], table.score[rows]
    what = f"Scorer {scorer!r} on the {role}"
    if not len(score):
        raise ValueError(f"{what}: no scores. Known scorers: {', '.join(table.scorers()) or 'none'}. Evaluate again.")
    bad = ~np.isfinite(score)
    if bad.any():
        where = f"prompt {prompt[bad][0]}, seed {seed[bad][0]}"
        raise ValueError(f"{what}: {int(bad.sum())} scores are not finite, the first at {where}. Inspect that image.")
    prompts, seeds = np.unique(prompt), np.unique(seed)
    if len(np.unique(np.stack([prompt, seed]), axis=1).T) != len(score) or len(score) != len(prompts) * len(seeds):
        raise ValueError(
            f"{what}: {len(score)} rows for {len(prompts)} prompts x {len(seeds)} seeds. Each cell must occur exactly"
            " once. Evaluate again."
        )
    order = np.lexsort((seed, prompt))
    return SeedGrid(prompts, seeds, score[order].reshape(len(prompts), len(seeds)))


def paired_differences(table: ScoreTable, scorer: str, against: str) -> tuple[Integers, Floats]:
    """Prompt indices and, for each, the candidate's mean over seeds minus the other model's.

    Raises ValueError when the two models were not scored on the same prompts and seeds.
    """
    candidate, other = seed_grid(table, scorer, "candidate"), seed_grid(table, scorer, against)
    same_prompts = np.array_equal(candidate.prompts_P, other.prompts_P)
    if not (same_prompts and np.array_equal(candidate.seeds_S, other.seeds_S)):
        raise ValueError(
            f"Scorer {scorer!r}: candidate has {candidate.scores_PS.shape} prompts x seeds, {against} has"
            f" {other.scores_PS.shape}, which differ. Sample both models with the same prompts and seeds."
        )
    differences = np.round(candidate.prompt_means() - other.prompt_means(), DIFFERENCE_DECIMALS)
    return candidate.prompts_P, differences


def outcome_counts(differences_P: Floats, tie_threshold: float) -> tuple[int, int, int]:
    """Wins, ties and losses of the candidate; a difference of at most the threshold is a tie."""
    wins = int((differences_P > tie_threshold).sum())
    losses = int((differences_P < -tie_threshold).sum())
    return wins, len(differences_P) - wins - losses, losses


def win_rate_interval(wins: int, ties: int, losses: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of the win rate, a tie counting one half; prompts are independent.

    Wilson's score interval with the variance of an outcome in {0, 1/2, 1}: at win rate p and tie share t that is
    p (1 - p) - t / 4. Without ties it is Wilson's interval exactly. With Wilson's own variance the interval would be
    valid but too wide (it would need twice the prompts at a tie share of one half). t is the observed share shrunk by
    z^2 pseudo-prompts without ties, so that a handful of decided prompts, or none, cannot give an interval close to a
    point. Unlike a t interval it does not collapse at 0 or 1.
    """
    prompts = wins + ties + losses
    if prompts == 0:
        raise ValueError("A win rate needs at least one prompt; there is none.")
    z_squared = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    rate = (wins + ties / 2) / prompts
    tie_share = ties / (prompts + z_squared)
    c = z_squared / prompts
    centre = (2 * rate + c) / (2 * (1 + c))
    spread = math.sqrt(max(0.0, c * (4 * rate * (1 - rate) - tie_share + c * (1 - tie_share)))) / (2 * (1 + c))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def mean_interval(differences_P: Floats, *, confidence: float) -> tuple[float, float]:
    """Two-sided t interval of the mean difference over prompts; a point when all differences are equal."""
    from scipy import stats

    prompts = len(differences_P)
    if prompts < 2:
        raise ValueError(f"An interval over prompts needs at least 2 prompts, got {prompts}.")
    half = float(stats.t.ppf(0.5 + confidence / 2, prompts - 1)) * float(differences_P.std(ddof=1)) / prompts**0.5
    mean = float(differences_P.mean())
    return mean - half, mean + half


def superiority_p_value(differences_P: Floats) -> float:
    """One-sided Wilcoxon signed-rank p of a positive shift; 1 when all differences are 0."""
    from scipy import stats

    if not differences_P.any():
        return 1.0
    return float(stats.wilcoxon(differences_P, alternative="greater").pvalue)


def _compare(
    table: ScoreTable, scorer: str, against: Literal["champion", "base"], *, tie_threshold: float, confidence: float
) -> Comparison:
    """Compute every number that the gate needs for one scorer and one opponent.

    Raises ValueError for missing, duplicated or non-finite cells and for unequal prompts or seeds.
    """
    if not (math.isfinite(tie_threshold) and tie_threshold >= 0):
        raise ValueError(f"Tie threshold of {scorer!r} is {tie_threshold}. Give a number of at least 0.")
    _, differences = paired_differences(table, scorer, against)
    return compare_differences(
        differences, scorer=scorer, against=against, tie_threshold=tie_threshold, confidence=confidence
    )


def compare_differences(
    differences_P: Floats, *, scorer: str, against: Literal["champion", "base"], tie_threshold: float, confidence: float
) -> Comparison:
    """Compute the comparison from one difference per prompt (candidate minus other, averaged over seeds)."""
    wins, ties, losses = outcome_counts(differences_P, tie_threshold)
    rate_low, rate_high = win_rate_interval(wins, ties, losses, confidence=confidence)
    mean_low, mean_high = mean_interval(differences_P, confidence=confidence)
    return Comparison(
        scorer=scorer,
        against=against,
        num_prompts=len(differences_P),
        wins=wins,
        ties=ties,
        losses=losses,
        win_rate=(wins + ties / 2) / len(differences_P),
        win_rate_low=rate_low,
        win_rate_high=rate_high,
        mean_difference=float(differences_P.mean()),
        mean_difference_low=mean_low,
        mean_difference_high=mean_high,
        p_value=superiority_p_value(differences_P),
    )


def compare_all(
    table: ScoreTable, scorers: Sequence[str], *, tie_thresholds: Mapping[str, float], confidence: float
) -> tuple[list[Comparison], list[str]]:
    """Compare each scorer against the champion and the base; also return the problems that prevented a comparison.

    A scorer that cannot be compared is absent from the comparisons and named in the problems; nothing is dropped
    silently.
    """
    comparisons, problems = [], []
    for scorer in scorers:
        for against in OPPONENTS:
            threshold = tie_thresholds.get(scorer, 0.0)
            try:
                comparisons.append(
                    _compare(table, scorer, against, tie_threshold=threshold, confidence=confidence),
                )
            except ValueError as error:
                problems.append(f"{scorer} against the {against}: {error}")
    return comparisons, problems
