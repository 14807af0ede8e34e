"""The true quality of a candidate of the shapes world, by the oracle and by its pixels; the gate never sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
COLLAPSED = 0.5
"""A model has collapsed when its seeds of a prompt differ by less than this share of the base's difference."""

Floats = np.ndarray


@dataclass(frozen=True)
class Line:
    """Measurements of one candidate, or of the base. Lists run over prompts, and within a prompt over seeds."""

    name: str
    kind: str
    training: str
    scale: float
    weights_digest: str
    sampler_steps: int
    oracle: list[float]
    seed_distances: list[float]
    """Root mean square pixel difference between the images of each prompt's seeds, 0 to 255."""


@dataclass(frozen=True)
class Truth:
    """Truth label by the oracle and the pixels. `why` is empty unless the candidate is bad."""

    label: str
    win_rate: float
    low: float
    high: float
    diversity: float
    """Distance among seeds as a share of the base's."""
    bad_slices: tuple[str, ...]
    why: str


def truth(ours: Line, base: Line, categories: Sequence[str], slice_margin: float) -> Truth:
    """Label a candidate good, bad or null against the base; intervals are 95 % bootstraps over prompts.

    Bad: the upper bound of the oracle's win rate lies below one half; or a slice is truly bad, its win rate below one
    half minus the policy's margin and its upper bound (Bonferroni over slices) below one half; or the upper bound of
    the distance among seeds lies below COLLAPSED of the base's. Good: none of these, and the lower bound of the win
    rate above one half. Otherwise null.
    """
    wins = won(ours.oracle, base.oracle, seeds=len(ours.oracle) // len(categories))
    low, high = interval(wins)
    names = np.asarray(categories)
    bad_slices = tuple(
        str(name)
        for name in np.unique(names)
        if wins[names == name].mean() < 0.5 - slice_margin
        and interval(wins[names == name], tests=len(set(categories)))[1] < 0.5
    )
    ratio, most = diversity_ratio(ours.seed_distances, base.seed_distances)
    faults = [
        *(["the oracle prefers the base"] if high < 0.5 else []),
        *(["its seeds are alike"] if most < COLLAPSED else []),
        *(f"slice {name} got worse" for name in bad_slices),
    ]
    label = "bad" if faults else "good" if low > 0.5 else "null"
    return Truth(label, float(wins.mean()), low, high, ratio, bad_slices, ", ".join(faults))


def won(ours: Sequence[float], theirs: Sequence[float], seeds: int) -> Floats:
    """1, 1/2 or 0 for each prompt, its seeds averaged first."""
    gains = np.subtract(ours, theirs).reshape(-1, seeds).mean(axis=1)
    return np.asarray(0.5 + 0.5 * np.sign(np.round(gains, 9)))


def interval(values: Floats, tests: int = 1) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean; several tests share the 5 % error."""
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5 / tests, 100 - 2.5 / tests])
    return float(low), float(high)


def diversity_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of the candidate's distances over mean of the base's, and its upper 97.5 % bootstrap bound over prompts."""
    pair = np.asarray([ours, theirs])
    draws = np.random.default_rng(0).integers(0, pair.shape[1], (RESAMPLES, pair.shape[1]))
    sums = pair[:, draws].sum(axis=2)
    return float(pair[0].sum() / pair[1].sum()), float(np.percentile(sums[0] / sums[1], 97.5))


def seed_distance(images: Sequence[Floats]) -> float:
    """Root mean square pixel difference, the mean over pairs of a prompt's images."""
    pixels = np.asarray(images, dtype=float)
    pairs = [(i, j) for i in range(len(pixels)) for j in range(i)]
    return float(np.mean([np.sqrt(np.mean((pixels[i] - pixels[j]) ** 2)) for i, j in pairs]))
