"""Compare the candidate with another model, prompt by prompt. Torch-free: the control plane can recompute it.

The unit is the prompt: scores are averaged over seeds first, then subtracted (candidate minus other), and every
interval is over prompts. Pooling (prompt, seed) cells as if independent would make the intervals too narrow. For the
same reason a group of near-duplicate prompts is averaged first and counts as one prompt (`prompt_groups.py`).
Shape letters: N prompts of the file, P independent prompts (groups of near-duplicates), S seeds. numpy and the
standard library suffice here except for the Wilcoxon test and the t quantile; scipy is imported where those are
computed, because it costs a second and DAG files import this package.
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
    group: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Index of the first prompt of the prompt's group; empty where no prompts are grouped."""

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> "ScoreTable":
        """Build from plain columns. Raises ValueError for a missing column or unequal lengths.

        A missing score (None) becomes NaN here and raises an error where it is used.
        """
        missing = [name for name in SCORE_COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"Score table lacks {', '.join(missing)}. It needs: {', '.join(SCORE_COLUMNS)}.")
        lengths = {name: len(columns[name]) for name in (*SCORE_COLUMNS, *({"group"} & set(columns)))}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Score table columns differ in length: {lengths}. Give one value per row in each.")
        return cls(
            role=np.asarray(columns["role"], dtype=np.str_),
            scorer=np.asarray(columns["scorer"], dtype=np.str_),
            prompt_index=np.asarray(columns["prompt_index"], dtype=np.int64),
            seed=np.asarray(columns["seed"], dtype=np.int64),
            score=np.asarray(columns["score"], dtype=np.float64),
            category=np.asarray(columns.get("category", ()), dtype=np.str_),
            group=np.asarray(columns.get("group", ()), dtype=np.int64),
        )

    def scorers(self) -> list[str]:
        """Distinct names, sorted."""
        return sorted(str(name) for name in np.unique(self.scorer))


@dataclass(frozen=True)
class SeedGrid:
    """One model's scores under one scorer, complete and finite."""

    prompts_N: Integers
    seeds_S: Integers
    scores_NS: Floats
    groups_N: Integers | None = None
    """Number of each prompt's group, 0 to P - 1, in the order of their first prompts; None where N = P."""

    @property
    def first_prompts(self) -> Integers:
        """Index of each group's first prompt."""
        if self.groups_N is None:
            return self.prompts_N
        return self.prompts_N[np.unique(self.groups_N, return_index=True)[1]]

    def prompt_means(self, seeds: Sequence[int] = ()) -> Floats:
        """Mean over the given seeds, or all of them, and over the prompts of a group: one number per group.

        ValueError when the grid has no scores of a given seed.
        """
        missing = sorted(set(seeds) - {int(seed) for seed in self.seeds_S})
        if missing:
            raise ValueError(f"There are no scores of seeds {missing}; there are those of {self.seeds_S.tolist()}.")
        chosen = np.isin(self.seeds_S, list(seeds)) if seeds else np.ones(len(self.seeds_S), dtype=bool)
        means_N = self.scores_NS[:, chosen].mean(axis=1)
        if self.groups_N is None:
            return np.asarray(means_N, dtype=np.float64)
        sizes_P = np.bincount(self.groups_N)
        return np.asarray(np.bincount(self.groups_N, weights=means_N) / sizes_P, dtype=np.float64)

    def passing(self, passes_NS: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return for each group whether all images of all its prompts pass."""
        passes_N = np.asarray(passes_NS.all(axis=1), dtype=bool)
        if self.groups_N is None:
            return passes_N
        return np.asarray(np.bincount(self.groups_N, weights=~passes_N) == 0, dtype=bool)


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
    groups_N = _group_numbers(table.group[rows][order][:: len(seeds)]) if len(table.group) else None
    return SeedGrid(prompts, seeds, score[order].reshape(len(prompts), len(seeds)), groups_N)


def _group_numbers(first_N: Integers) -> Integers | None:
    """Number the groups from 0 by their first prompts; None when every group is one prompt."""
    names, numbers_N = np.unique(first_N, return_inverse=True)
    return None if len(names) == len(first_N) else np.asarray(numbers_N, dtype=np.int64)


def same_cells(first: SeedGrid, second: SeedGrid) -> bool:
    """Return True when two grids have the same prompts, groups and seeds."""
    same_prompts = np.array_equal(first.prompts_N, second.prompts_N)
    same_groups = np.array_equal(first.first_prompts, second.first_prompts)
    return same_prompts and same_groups and np.array_equal(first.seeds_S, second.seeds_S)


def paired_differences(table: ScoreTable, scorer: str, against: str) -> tuple[Integers, Floats]:
    """Index of each group's first prompt and, for each, the candidate's mean minus the other model's.

    Raises ValueError when the two models were not scored on the same prompts and seeds.
    """
    candidate, other = seed_grid(table, scorer, "candidate"), seed_grid(table, scorer, against)
    if not same_cells(candidate, other):
        raise ValueError(
            f"Scorer {scorer!r}: candidate has {candidate.scores_NS.shape} prompts x seeds, {against} has"
            f" {other.scores_NS.shape}, which differ. Sample both models with the same prompts and seeds."
        )
    differences = np.round(candidate.prompt_means() - other.prompt_means(), DIFFERENCE_DECIMALS)
    return candidate.first_prompts, differences


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
