"""The table [gate] of a project: what a candidate must show. docs/gate.md explains every field with its default.

All bounds are at the evaluation's confidence, which is two-sided; a one-sided level is (1 - confidence) / 2.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from alignment.contracts.values import NotNegative, PositiveInt, Record, Share, ValueObject

Action = Literal["block", "warn", "off"]
"""What a breach does: the candidate is held, or a line says so, or nobody looks."""

Positive = Annotated[FiniteFloat, Field(gt=0)]


class GuardRule(Record):
    """Limits of a guard: its largest loss against the champion, and its range. Every stated limit must hold."""

    margin: NotNegative | None = None
    """Largest tolerated loss, in the guard's units; of a guard with a threshold, as a share of prompts."""
    relative_margin: Share | None = None
    """Largest tolerated loss as a share of the champion's mean, which must be positive."""
    better: Literal["higher", "lower"] = "higher"
    """Direction in which a guard improves."""
    threshold: FiniteFloat | None = None
    """Makes the guard a yes or no: a prompt passes when all its images are on the good side of it, or on it."""
    floor: FiniteFloat | None = None
    """The candidate's mean (with a threshold: share of prompts that pass) must be shown to lie above this."""
    ceiling: FiniteFloat | None = None
    """It must be shown to lie below this."""
    slice_margin: NotNegative | None = None
    """Largest tolerated loss within a slice, in the guard's units; none: slices are not looked at."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        limits = (self.margin, self.relative_margin, self.threshold, self.floor, self.ceiling)
        if all(limit is None for limit in limits):
            raise ValueError("a guard needs a margin, relative_margin, threshold, floor or ceiling")
        if self.threshold is not None and self.relative_margin is not None:
            raise ValueError("a guard with a threshold takes a margin in shares of prompts, no relative_margin")
        if self.threshold is not None and self.margin == 0:
            raise ValueError(
                "a guard with a threshold and margin 0 can never hold: a share of prompts is not known to the last one."
                " Give a margin such as 0.005, or leave it out for the test of a significant worsening"
            )
        return self


class SliceRule(Record):
    """Prompt categories may not get worse. Tests of harm in every slice, corrected together (Holm)."""

    action: Action = "block"
    """Consequence of a breach."""
    margin: Share = 0.05
    """Largest distance below one half of a judge's win rate within a slice where the loss is beyond chance."""
    minimum_prompts: PositiveInt = 50
    """A slice with fewer is reported as unmeasured."""


class PowerRule(Record):
    """Prompts must suffice to find an effect worth finding; else the verdict is inconclusive."""

    effect: Positive = 0.15
    """Mean paired difference in units of its standard deviation over prompts; 0.15 is a win rate of 56 %."""
    required: Share = 0.9
    """Least chance of finding it; 0 asks nothing."""


class Detector(Record):
    """A sign of a gamed judge: the consequence of a breach, and its limit."""

    action: Action = "warn"
    """Consequence of a breach."""
    margin: NotNegative
    """Largest value that is no breach, in the units of the detector."""


class DetectorRules(Record):
    """Detectors of judges that were pleased without people being so. Each speaks on a confidence bound."""

    trained_on_gap: Detector = Detector(action="block", margin=0.3)
    """Standardised gain under a judge that the candidate was trained on, beyond the mean of the voting judges."""
    lone_judge: Detector = Detector(action="warn", margin=0.5)
    """The same for each voting judge against the others: one that gains alone was perhaps hacked by a detour."""
    persisting_gain: Detector = Detector(action="warn", margin=0.8)
    """Share of a judge's gain that remains when images are scored against other prompts: style, not match."""
    rank_correlation: Detector = Detector(action="warn", margin=0.2)
    """Fall of two voting judges' rank correlation over prompts, against the champion compared with itself."""
    drift: dict[str, Detector] = Field(default_factory=dict)
    """Image statistics by scorer name (saturation, sharpness...): largest change either way, in its own units."""


class GatePolicy(ValueObject):
    """Requirements for a candidate. The defaults are for a production model with some 1600 prompts and three judges."""

    schema_version: int = 2
    mode: Literal["off", "dry_run", "enforce"] = "enforce"
    """off: promotion is by hand only; dry_run: verdicts without consequence; enforce: the alias follows the verdict."""
    minimum_prompts: PositiveInt = 1000
    """Fewest prompts of a valid evaluation."""
    required_judges: PositiveInt = 2
    """k of n: voting judges that must prefer the candidate to the champion (partial conjunction)."""
    minimum_voting_judges: PositiveInt = 1
    """n: judges that must be allowed to vote; at least required_judges in any case."""
    superiority: Literal["wilcoxon", "win_rate"] = "wilcoxon"
    """Test behind a vote: a signed-rank test of the paired differences, with minimum_win_rate asked of the measured
    win rate; or the lower bound of the win rate, which must exceed minimum_win_rate (surer, two to four times the
    prompts)."""
    minimum_win_rate: Share = 0.52
    """Win rate over the champion that a vote needs, as a share of prompts."""
    minimum_effect: FiniteFloat = 0.0
    """The measured standardised effect must reach this as well."""
    calibration_floor: Share = 0.6
    """The lower bound of a judge's agreement with held-out human pairs must exceed this, or it may not vote."""
    minimum_calibration_pairs: PositiveInt = 250
    """Fewest human pairs that a judge's agreement must be measured on before it may vote."""
    maximum_calibration_age_days: NotNegative = 90
    """Human pairs older than this count for no judge's vote, nor pairs dated later than now; a judge that was never
    calibrated may not vote. 0 asks nothing."""
    calibration_generators: tuple[str, ...] = Field(default=(), exclude_if=().__eq__)
    """Only human pairs whose images were all drawn by these models count, by the names that the sources give them. A
    judge that knows SD1.5's images is not known to judge FLUX's. Empty: images of any generator count, which
    the gate reports."""
    guards: dict[str, GuardRule] = Field(default_factory=dict)
    """By the name of a guard of the evaluation; every measured guard needs a rule here or in detectors.drift."""
    slices: SliceRule = SliceRule()
    """Rule for prompt categories."""
    power: PowerRule = PowerRule()
    """Rule for the number of prompts."""
    detectors: DetectorRules = DetectorRules()
    """Detectors of judges that were gamed."""

    @model_validator(mode="after")
    def _one_rule_each(self) -> Self:
        both = sorted(set(self.guards) & set(self.detectors.drift))
        if both:
            raise ValueError(f"{', '.join(both)}: named in guards and in detectors.drift; keep one of the two")
        return self

    @property
    def counted_pairs(self) -> str:
        """Which human pairs count for a vote, to follow the word `pairs`."""
        days, names = self.maximum_calibration_age_days, self.calibration_generators
        drawn = f"drawn by {' or '.join(names)}" if names else "of any generator"
        return f"{drawn} and not older than {days:g} days" if days else drawn

    @property
    def voting_judges(self) -> int:
        """Least number of judges that may vote."""
        return max(self.required_judges, self.minimum_voting_judges)
