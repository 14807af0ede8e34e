"""The table [gate] of a project: requirements for a candidate. docs/gate.md explains every field with its default.

All bounds are at the evaluation's confidence, which is two-sided; a one-sided level is (1 - confidence) / 2.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from alignment.contracts.values import NotNegative, PositiveInt, Record, Share, ValueObject

Action = Literal["block", "warn", "off"]
"""Consequence of a breach: the candidate is held, a warning is reported, or nothing is checked."""

Positive = Annotated[FiniteFloat, Field(gt=0)]


class GuardRule(Record):
    """Limits of a guard: largest loss against the champion, and range. Every limit that is set must hold."""

    margin: NotNegative | None = None
    """Largest tolerated loss, in the guard's units, or as a share of prompts for a guard with a threshold."""
    relative_margin: Share | None = None
    """Largest tolerated loss as a share of the champion's mean, which must be positive."""
    better: Literal["higher", "lower"] = "higher"
    """Direction in which a guard improves."""
    threshold: FiniteFloat | None = None
    """Turns the guard into pass or fail: a prompt passes if all its images are on the better side of this or equal."""
    floor: FiniteFloat | None = None
    """The candidate's mean, or share of passing prompts with a threshold, must be shown to exceed this."""
    ceiling: FiniteFloat | None = None
    """The candidate's mean, or share of passing prompts with a threshold, must be shown to be below this."""
    anchor_margin: NotNegative | None = None
    """Largest tolerated loss against the anchor, in the unit of the margin (a share for `relative_margin`); none: twice
    the margin."""
    slice_margin: NotNegative | None = None
    """Largest tolerated loss within a slice, in the guard's units; none: slices are not checked."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        limits = (self.margin, self.relative_margin, self.threshold, self.floor, self.ceiling)
        if all(limit is None for limit in limits):
            raise ValueError("a guard needs a margin, relative_margin, threshold, floor or ceiling")
        if self.threshold is not None and self.relative_margin is not None:
            raise ValueError("a guard with a threshold cannot have relative_margin. Give margin, as a share of prompts")
        if self.threshold is not None and self.margin == 0:
            raise ValueError(
                "a guard with a threshold and margin 0 can never pass, as a share of prompts is never known exactly."
                " Give a margin such as 0.005, or omit it to test for a significant loss"
            )
        return self


class SliceRule(Record):
    """Rule for prompt categories, which may not get worse. The tests of all slices are corrected together (Holm)."""

    action: Action = "block"
    """Consequence of a breach."""
    margin: Share = 0.05
    """Largest distance of a judge's win rate below one half within a slice. Only significant losses count."""
    minimum_prompts: PositiveInt = 50
    """Fewest prompts of a slice. Slices with fewer are reported as unmeasured."""


class PowerRule(Record):
    """Rule for the number of prompts. If too few to find a relevant effect, the verdict is inconclusive."""

    effect: Positive = 0.15
    """Mean paired difference in units of its standard deviation over prompts; 0.15 is a win rate of 56 %."""
    required: Share = 0.9
    """Smallest probability of finding this effect; 0 turns the rule off."""


class Detector(Record):
    """Detector of a gamed judge: its limit, and the consequence of a breach."""

    action: Action = "warn"
    """Consequence of a breach."""
    margin: NotNegative
    """Largest value that is not a breach, in the units of the detector."""


class DriftRule(Detector):
    """Detector of a changed image statistic."""

    unit: Literal["statistic", "sd"] = Field(default="statistic", exclude_if="statistic".__eq__)
    """Unit of the margin. statistic: that of the statistic; sd: standard deviations of the champion over prompts, which
    suits every kind of image."""

    def absolute(self, spread: float) -> float:
        """Return the margin in the unit of the statistic. `spread`: the champion's standard deviation over prompts."""
        return self.margin * spread if self.unit == "sd" else self.margin


PREDICTION_NORM = Detector(action="warn", margin=0.025)


class DetectorRules(Record):
    """Detectors of gains under judges that people would not share. Each compares a confidence bound with its margin."""

    trained_on_gap: Detector = Detector(action="block", margin=0.3)
    """Standardised gain under a judge that trained the candidate, minus the mean gain under the voting judges."""
    lone_judge: Detector = Detector(action="warn", margin=0.5)
    """Standardised gain under one voting judge, minus the mean gain under the others. A gain under one judge alone
    suggests that the candidate exploits it."""
    persisting_gain: Detector = Detector(action="warn", margin=0.8)
    """Share of a judge's gain that remains when images are scored against other prompts. This share comes from style,
    not from matching the prompt."""
    rank_correlation: Detector = Detector(action="warn", margin=0.2)
    """Decrease of the rank correlation of two voting judges over prompts, relative to the champion against itself."""
    prediction_norm: Detector = Field(default=PREDICTION_NORM, exclude_if=PREDICTION_NORM.__eq__)
    """Relative change of the mean norm of the denoiser's predictions against the base, in the timestep bin where it is
    largest. A rise precedes harsh, oversaturated images."""
    drift: dict[str, DriftRule] = Field(default_factory=dict)
    """Largest change of an image statistic in either direction, by scorer name."""


Preset = Literal["small", "standard", "strict"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "minimum_prompts": 100,
        "required_judges": 1,
        "required_families": 1,
        "calibration_floor": 0.3,
        "minimum_calibration_pairs": 20,
        "maximum_calibration_age_days": 365,
        "slices": {"action": "warn", "margin": 0.15, "minimum_prompts": 20},
        "power": {"effect": 0.3, "required": 0.8},
    },
    "standard": {},
    "strict": {
        "minimum_prompts": 1000,
        "required_judges": 3,
        "quarterly_error": 0.01,
        "minimum_win_rate": 0.55,
        "calibration_floor": 0.55,
        "minimum_calibration_pairs": 500,
        "anchor": "best",
        "slices": {"margin": 0.03},
        "detectors": {
            "lone_judge": {"action": "block", "margin": 0.5},
            "persisting_gain": {"action": "block", "margin": 0.8},
        },
    },
}
"""Values that each preset puts in place of the defaults. docs/gate.md states and measures what follows from them."""


class GatePolicy(ValueObject):
    """Requirements for a candidate. The defaults suit a production model with about 1600 prompts and three judges."""

    schema_version: int = 3
    preset: Preset = Field(default="standard", exclude_if="standard".__eq__)
    """Set of defaults for the other fields; a field that you give wins. small: one judge and 20 human pairs are
    enough, and a person approves every promotion; standard: the defaults of this table; strict: three judges, a fifth
    of the false promotions, and guards that hold against the best version so far."""
    mode: Literal["off", "dry_run", "enforce"] = "enforce"
    """off: nothing is judged, and a person promotes with `plumbline promote --by-hand`; dry_run: verdicts have no
    consequence; enforce: the alias follows the verdict."""
    minimum_prompts: PositiveInt = 500
    """Fewest prompts of a valid evaluation; near-duplicates count as one."""
    required_judges: PositiveInt = 2
    """Number of voting judges that must prefer the candidate: k of n in a partial conjunction test."""
    veto: bool = True
    """A voting judge that votes against the candidate holds it, however many judges prefer it. False: votes are only
    counted, and judges that can be gamed together outvote one that cannot."""
    required_families: PositiveInt = 2
    """Number of encoder families that the judges in favour must come from, at most required_judges. Judges with one
    encoder have the same blind spots: PickScore and HPSv2 are both a CLIP ViT-H."""
    minimum_voting_judges: PositiveInt = 1
    """Number of judges that must be allowed to vote. At least required_judges must be, even if this is smaller."""
    superiority: Literal["wilcoxon", "win_rate"] = "wilcoxon"
    """Test of a vote. wilcoxon: a signed-rank test of the paired differences, and a measured win rate of at least
    minimum_win_rate. win_rate: the lower bound of the win rate must exceed minimum_win_rate, which is stricter and
    needs two to four times as many prompts."""
    quarterly_error: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.05
    """Largest chance that some candidate without a gain is promoted within a calendar quarter. The more candidates a
    quarter has, the stricter is the level of the next one's votes. 0: each candidate is tested at the level of the
    evaluation's confidence, however many there are."""
    minimum_win_rate: Share = 0.52
    """Smallest win rate worth having, among people. A judge's own win rate must be what people's would look like at the
    judge's agreement with them: at an agreement of 0.65, 0.506 for 0.52."""
    minimum_effect: FiniteFloat = 0.0
    """Smallest measured standardised effect of a vote."""
    calibration_floor: Share = 0.52
    """A judge may vote only if the lower bound of its agreement with held-out human labels exceeds this. Chance is 0.5;
    published judges agree with people in 0.6 to 0.7 of pairs, which a few hundred pairs can show to exceed 0.52."""
    minimum_calibration_pairs: PositiveInt = 200
    """Fewest human pairs on which a judge's agreement must be measured before it may vote."""
    maximum_calibration_age_days: NotNegative = 90
    """Human pairs that are older than this, or dated in the future, do not count for a judge's agreement. A judge that
    was never calibrated may not vote. 0: no age limit."""
    calibration_generators: tuple[str, ...] = Field(default=(), exclude_if=().__eq__)
    """Generators whose images count for a judge's agreement, by their names in the sources. A pair counts if both
    images are from these. Agreement on images of SD1.5 says little about images of FLUX. Empty: all generators count,
    and the gate reports it."""
    guards: dict[str, GuardRule] = Field(default_factory=dict)
    """Rules of the guards, by their names in the evaluation. Every guard needs a rule here or in detectors.drift."""
    anchor: Literal["none", "base", "best"] = "base"
    """Model against which the guards hold besides the champion, so that small losses do not add up over promotions.
    best: for each guard the best of the base and the versions promoted so far, without those left by a rollback."""
    slices: SliceRule = SliceRule()
    """Rule for prompt categories."""
    power: PowerRule = PowerRule()
    """Rule for the number of prompts."""
    detectors: DetectorRules = DetectorRules()
    """Detectors of gamed judges."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, data: Any) -> Any:
        """Put the preset's values where the policy has none; a table is filled up field by field."""
        if not isinstance(data, dict):
            return data
        name = data.get("preset", "standard")
        return _filled_up(data, PRESETS.get(name, {}) if isinstance(name, str) else {})

    @model_validator(mode="after")
    def _one_rule_each(self) -> Self:
        both = sorted(set(self.guards) & set(self.detectors.drift))
        if both:
            raise ValueError(f"{', '.join(both)}: has a rule in guards and in detectors.drift. Remove one of the two")
        return self

    @property
    def counted_pairs(self) -> str:
        """Description of the human pairs that count for a vote, to follow the word `pairs`."""
        days, names = self.maximum_calibration_age_days, self.calibration_generators
        drawn = f"drawn by {' or '.join(names)}" if names else "of any generator"
        return f"{drawn} and not older than {days:g} days" if days else drawn

    @property
    def needs_person(self) -> bool:
        """True if this policy alone, whatever [approval] says, lets nothing become champion without a person."""
        return self.preset == "small"

    @property
    def families(self) -> int:
        """Smallest number of encoder families of the judges in favour."""
        return min(self.required_families, self.required_judges)

    @property
    def voting_judges(self) -> int:
        """Smallest number of judges that must be allowed to vote."""
        return max(self.required_judges, self.minimum_voting_judges)


def _filled_up(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given fields over those of the preset. A value that is no plain table replaces the preset's whole."""
    filled = {**preset, **given}
    for name in preset.keys() & given.keys():
        if isinstance(preset[name], Mapping) and isinstance(given[name], Mapping):
            filled[name] = _filled_up(given[name], preset[name])
    return filled
