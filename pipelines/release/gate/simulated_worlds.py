"""Simulated worlds and kinds of candidates: what an operating curve asks the gate about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from alignment.statistics.agreement import attenuated_win_rate
from alignment.statistics.comparison import Integers
from alignment.statistics.tries import Tries
from pipelines.project.gate import GatePolicy, GuardRule
from pipelines.release.gate.checks.interface import NO_TRIES

LEVEL = 20.0
"""Mean score of a champion under scorers without absolute limits."""

RARE_LOSSES = ((0.05, 6.0, 0.25), (0.03, 10.0, 0.2), (0.05, 10.0, 0.25))
"""Share of prompts that lose, by how much, and the gain of the others: means of -0.06, -0.11 and -0.26."""

SLICE_LOSSES = (0.3, 0.4, 0.5, 0.6, 0.8)
"""Losses within one slice, in standard deviations: small ones are visible only in slices with many prompts."""


@dataclass(frozen=True)
class World:
    """The settings that every simulated evaluation shares."""

    policy: GatePolicy
    num_prompts: int
    num_judges: int = 3
    slices: Mapping[str, float] = field(default_factory=dict)
    """Slice name to its share of the prompts."""
    correlation: float = 0.5
    """Correlation of the judges' differences over prompts."""
    margin_scale: float = 0.15
    """A guard's margin in standard deviations of its paired difference, if it is not in `guard_margin_scales`."""
    guard_margin_scales: Mapping[str, float] = field(default_factory=dict)
    """Guard to its margin in standard deviations, as an evaluation measured it."""
    tie_thresholds: Mapping[str, float] = field(default_factory=dict)
    """Judge to its tie threshold, in standard deviations of its differences."""
    group_sizes: tuple[int, ...] = ()
    """Sizes of groups of near-duplicate prompts, which gain or lose alike; the other prompts are independent."""
    families: tuple[str, ...] = ()
    """Encoder families of the judges; without them each judge has its own."""
    accuracy: float = 1.0
    """Agreement of every judge with people."""
    calibration_pairs: int = 0
    """Number of human pairs that an agreement is measured on, with the error of that sample; 0: it is exact."""
    heavy_tails: bool = False
    """True if differences over prompts have Student's distribution with 3 degrees of freedom instead of the normal."""
    tries: Tries = NO_TRIES
    """Evaluations that were decided earlier in the quarter."""
    guards: tuple[str, ...] | None = None
    """Guards that the evaluation measures; None means those with a rule in the policy."""
    seeds: tuple[int, ...] = (0, 1)
    confidence: float = 0.95

    @property
    def groups(self) -> Integers:
        """Group number of each prompt."""
        alone = np.arange(self.num_prompts - sum(self.group_sizes)) + len(self.group_sizes)
        return np.concatenate([np.repeat(np.arange(len(self.group_sizes)), self.group_sizes), alone])

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the guards and of the drift statistics."""
        rules = {*self.policy.guards, *self.policy.detectors.drift}
        return tuple(sorted(rules if self.guards is None else self.guards))

    def spread(self, guard: str) -> float:
        """Standard deviation of a guard's paired difference, in its units."""
        rule, drift = self.policy.guards.get(guard), self.policy.detectors.drift.get(guard)
        margin = margin_of(rule) if rule else drift.margin if drift else 1.0
        return (margin or 1.0) / self.guard_margin_scales.get(guard, self.margin_scale)

    def in_spreads(self, guard: str) -> bool:
        """Return True for a statistic whose margin counts the champion's standard deviations over prompts."""
        drift = self.policy.detectors.drift.get(guard)
        return drift is not None and drift.unit == "sd"

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the voting judges."""
        return tuple(f"judge_{index + 1}" for index in range(self.num_judges))


@dataclass(frozen=True)
class Truth:
    """A kind of candidate, defined by its true gains and losses."""

    name: str
    gains: tuple[float, ...] = ()
    """Mean difference under each judge, in standard deviations; the last value is used for all further judges."""
    trained_on_gain: float | None = None
    """The same under an additional judge that the candidate was trained on; None means that there is none."""
    guard_loss: float = 0.0
    """Loss under the first guard, in multiples of its margin."""
    slice_gain: float | None = None
    """Mean difference under every judge within the first slice, instead of `gains`."""
    rare_share: float = 0.0
    """Share of the prompts that the candidate fails under every judge; drawn at random for each evaluation."""
    rare_gain: float = 0.0
    """Mean difference on those, instead of `gains`."""
    good: bool | None = None
    """True if it should be promoted; None if that is debatable."""

    def gain(self, judge: int) -> float:
        """Return the mean difference under one judge."""
        return self.gains[min(judge, len(self.gains) - 1)] if self.gains else 0.0


def margin_of(rule: GuardRule) -> float:
    """Return a guard's tolerated loss in its units; without a margin the unit is irrelevant."""
    return rule.margin or LEVEL * (rule.relative_margin or 0.0) or 1.0


def standard_truths(world: World) -> list[Truth]:
    """Return the candidates to simulate for every policy."""
    truths = [
        Truth("no effect", good=False),
        *(Truth(f"gain of {d:g} sd", (d,), good=True) for d in (0.05, 0.1, 0.15, 0.2, 0.3)),
        Truth("60 % true win rate", (0.2533,), good=True),
        Truth("loss of 0.1 sd", (-0.1,), good=False),
        Truth("one judge hacked by 0.5 sd", (0.5, 0.0), good=False),
        Truth("one hacked, others lose 0.05", (0.5, -0.05), good=False),
        Truth("trained-on judge hacked by 1 sd", (0.0,), trained_on_gain=1.0, good=False),
        Truth("trained-on judge by 1 sd, others 0.1", (0.1,), trained_on_gain=1.0, good=False),
        *(rare_losses(*found) for found in RARE_LOSSES),
    ]
    if world.policy.guards:
        truths.append(Truth("gain of 0.2 sd, a guard loses twice its margin", (0.2,), guard_loss=2.0, good=False))
    if world.slices:
        truths += [slice_loss(loss) for loss in SLICE_LOSSES]
    return truths


def among_people(win_rate: float, accuracy: float) -> Truth:
    """Return a candidate that people prefer on this share of prompts, as judges of this agreement with people see it.

    A judge errs alike on wins and losses, so its win rate lies closer to one half.
    """
    effect = NormalDist().inv_cdf(attenuated_win_rate(win_rate, accuracy))
    return Truth(f"people prefer it on {win_rate:.0%} of prompts", (effect,), good=True)


def rare_losses(share: float, loss: float, gain: float) -> Truth:
    """Return a candidate that gains on most prompts and is worse on average."""
    name = f"{100 * share:g} % of prompts lose {loss:g} sd, others gain {gain:g}"
    return Truth(name, (gain,), rare_share=share, rare_gain=-loss, good=False)


def slice_loss(loss: float) -> Truth:
    """Return a candidate that is better except in one slice."""
    return Truth(f"gain of 0.2 sd, one slice loses {loss:g}", (0.2,), slice_gain=-loss, good=False)
