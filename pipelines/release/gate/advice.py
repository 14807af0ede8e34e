"""`plumbline gate advise`: the gains that the data and judges at hand can show, and what it takes to show more.

The figures are for the votes alone and for the first candidate of a quarter; guards, slices and further candidates only
make a promotion rarer. `simulation.py` gives the same shares by running the gate on synthetic scores.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Literal

from alignment.contracts.values import Record
from alignment.statistics.agreement import attenuated_win_rate
from alignment.statistics.power import (
    WILCOXON_EFFICIENCY,
    prompts_needed,
    shift_power,
    win_rate_power,
)
from alignment.statistics.tries import level_of_try
from pipelines.project.gate import PRESETS, GatePolicy, Preset
from pipelines.release.gate.checks.interface import NO_TRIES

PUBLISHED: Mapping[str, float] = {
    "pickscore": 0.616,
    "hpsv2": 0.638,
    "hpsv3": 0.668,
    "imagereward": 0.611,
    "clip_score": 0.571,
    "aesthetic_v2": 0.568,
}
"""Agreement of published judges with people, on a data set that the judge was not made for.

Sources: PickScore, HPSv3 and CLIP (ViT-H/14) on ImageReward's test, HPSv2, ImageReward and the aesthetic predictor on
Pick-a-Pic's, as reported in the papers of HPSv2 and HPSv3 and in Pick-a-Pic's. Definitions differ by several points.
"""
ASSUMED = 0.6
"""Agreement of any other judge that was not measured."""
ENOUGH_PAIRS = 100
"""Human pairs from which a measured agreement is used. On fewer it is too uncertain to plan with."""
POWERS = (0.8, 0.9)
TARGETS = (0.55, 0.6, 0.65, 0.7)
"""Win rates among people for which the number of prompts is given."""
BETTER_JUDGES = 0.7
"""Agreement of judges that are worth looking for."""
MOST_PAIRS = 20_000
_NORMAL = NormalDist()


class AdvisedJudge(Record):
    """A judge of the project, and the agreement that is planned with."""

    judge: str
    encoder: str
    agreement: float
    basis: Literal["measured", "published", "assumed"]
    pairs: int
    """Human pairs on which its agreement was measured; 0: not measured."""
    admitted: float = 1.0
    """Chance that a judge of this agreement may vote under the project's policy, on the human pairs at hand."""


class _PresetAdvice(Record):
    """One preset, or the project's own policy, with the data and judges at hand."""

    policy: str
    fits: bool
    shown_in_80: float | None
    """Smallest win rate among people that is promoted with a chance of 80 %; None if even 100 % is not."""
    shown_in_90: float | None
    lacks: tuple[str, ...]


class _Target(Record):
    """Prompts that a win rate among people needs, under the advised policy."""

    people_prefer: float
    prompts_for_80: int | None
    prompts_for_90: int | None
    prompts_for_90_with_better_judges: int | None


class Advice(Record):
    """The answer of `plumbline gate advise`."""

    project: str
    prompts: int
    """Independent prompts: near-duplicates count as one."""
    seeds: int
    human_pairs: int
    """Pairs with human labels in the calibration split; estimated from its share before the first calibration."""
    judges: tuple[AdvisedJudge, ...]
    policies: tuple[_PresetAdvice, ...]
    advised: Preset | None
    """Strictest preset that fits; None if none does."""
    to_show_more: tuple[_Target, ...]
    sentences: tuple[str, ...]


def planned_judge(judge: str, kind: str, encoder: str, *, accuracy: float | None, pairs: int) -> AdvisedJudge:
    """Return the agreement to plan with: measured on enough pairs, else published, else assumed. At least 0.5."""
    if accuracy is not None and pairs >= ENOUGH_PAIRS:
        return AdvisedJudge(judge=judge, encoder=encoder, agreement=max(0.5, accuracy), basis="measured", pairs=pairs)
    basis: Literal["published", "assumed"] = "published" if kind in PUBLISHED else "assumed"
    return AdvisedJudge(judge=judge, encoder=encoder, agreement=PUBLISHED.get(kind, ASSUMED), basis=basis, pairs=pairs)


def advise(
    project: str,
    policy: GatePolicy,
    judges: Sequence[AdvisedJudge],
    *,
    prompts: int,
    seeds: int,
    human_pairs: int,
    approvers: int,
    confidence: float,
) -> Advice:
    """Return what can be shown. `approvers`: people who may approve; 0 where the project does not ask each time."""
    known = [
        judge.model_copy(update={"admitted": _admitted(judge, policy, human_pairs, confidence)}) for judge in judges
    ]
    named = {"this project": policy, **{name: GatePolicy.model_validate({"preset": name}) for name in PRESETS}}
    rows = [
        _preset_row(name, own, known, prompts=prompts, pairs=human_pairs, approvers=approvers, confidence=confidence)
        for name, own in named.items()
    ]
    fitting: list[Preset] = [name for name, row in zip(PRESETS, rows[1:], strict=True) if row.fits]  # type: ignore[misc]
    advised = fitting[-1] if fitting else None
    basis = named[advised or "small"]
    return Advice(
        project=project,
        prompts=prompts,
        seeds=seeds,
        human_pairs=human_pairs,
        judges=tuple(known),
        policies=tuple(rows),
        advised=advised,
        to_show_more=tuple(_target(rate, basis, known, confidence) for rate in TARGETS),
        sentences=tuple(_sentences(policy, rows, known, advised, human_pairs=human_pairs, confidence=confidence)),
    )


# --- chances --------------------------------------------------------------------------------------------------------


def _promoted_share(
    policy: GatePolicy, judges: Sequence[AdvisedJudge], *, win_rate: float, prompts: int, confidence: float
) -> float:
    """Chance that the votes promote a candidate that people prefer on this share of prompts, if all judges may vote.

    The smaller of the chances for judges that err independently and for judges that err together. 0 where the judges
    are too few.
    """
    required, families = policy.required_judges, policy.families
    if len(judges) < policy.voting_judges or len({judge.encoder for judge in judges}) < families:
        return 0.0
    level = (1 - confidence) / 2
    if policy.quarterly_error:
        level = min(level, level_of_try(policy.quarterly_error, NO_TRIES))
    level /= len(judges) - required + 1
    singles = [
        _vote_chance(policy, judge.agreement, win_rate=win_rate, prompts=prompts, level=level) for judge in judges
    ]
    apart = sum(_chances_of_majorities(singles, [judge.encoder for judge in judges], required, families))
    return min(sorted(singles, reverse=True)[required - 1], apart)


def _vote_chance(policy: GatePolicy, agreement: float, *, win_rate: float, prompts: int, level: float) -> float:
    """Chance that one judge prefers the candidate: that its test and its measured win rate both pass, at least."""
    rate = min(attenuated_win_rate(win_rate, agreement), 1 - 1e-9)
    needed = attenuated_win_rate(policy.minimum_win_rate, agreement)
    if policy.superiority == "win_rate":
        return win_rate_power(rate, prompts, minimum=needed, level=level)
    seen = shift_power(_NORMAL.inv_cdf(rate), prompts, level=level, efficiency=WILCOXON_EFFICIENCY)
    measured = _NORMAL.cdf((rate - needed) * math.sqrt(prompts / (rate * (1 - rate))))
    return max(0.0, seen + measured - 1)


def _chances_of_majorities(
    singles: Sequence[float], encoders: Sequence[str], required: int, families: int
) -> Iterator[float]:
    """Yield the chance of each set of judges in favour that is large enough, for judges that err independently."""
    numbers = range(len(singles))
    for size in range(required, len(singles) + 1):
        for chosen in combinations(numbers, size):
            if len({encoders[number] for number in chosen}) >= families:
                yield math.prod(singles[n] if n in chosen else 1 - singles[n] for n in numbers)


def _smallest_win_rate(
    policy: GatePolicy, judges: Sequence[AdvisedJudge], *, prompts: int, confidence: float, power: float
) -> float | None:
    """Smallest win rate among people that is promoted with this chance, to a tenth of a percent; None without one."""

    def chance(thousandths: int) -> float:
        return _promoted_share(policy, judges, win_rate=thousandths / 1000, prompts=prompts, confidence=confidence)

    low, high = 500, 1000
    if chance(high) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return high / 1000


def _admission_chance(agreement: float, pairs: int, policy: GatePolicy, confidence: float) -> float:
    """Chance that a judge of this agreement may vote when it is measured on this many independent human pairs.

    Its lower Wilson bound must exceed the floor, which is a score test of the floor.
    """
    if pairs < policy.minimum_calibration_pairs:
        return 0.0
    from scipy import stats

    floor, z = policy.calibration_floor, _NORMAL.inv_cdf((1 + confidence) / 2)
    least = math.floor(pairs * floor + z * math.sqrt(pairs * floor * (1 - floor))) + 1
    return float(stats.binom.sf(least - 1, pairs, agreement))


def _admitted(judge: AdvisedJudge, policy: GatePolicy, human_pairs: int, confidence: float) -> float:
    return _admission_chance(judge.agreement, judge.pairs or human_pairs, policy, confidence)


def _pairs_needed(agreement: float, policy: GatePolicy, confidence: float) -> int | None:
    """Fewest human pairs on which a judge of this agreement may vote in 90 % of cases; None above MOST_PAIRS."""
    high = policy.minimum_calibration_pairs
    while _admission_chance(agreement, high, policy, confidence) < POWERS[1]:
        high += max(1, high // 20)
        if high > MOST_PAIRS:
            return None
    return high


# --- rows and sentences ---------------------------------------------------------------------------------------------


def _preset_row(
    name: str,
    policy: GatePolicy,
    judges: Sequence[AdvisedJudge],
    *,
    prompts: int,
    pairs: int,
    approvers: int,
    confidence: float,
) -> _PresetAdvice:
    found = [
        _smallest_win_rate(policy, judges, prompts=prompts, confidence=confidence, power=power) for power in POWERS
    ]
    lacks = list(_lacks(policy, judges, prompts=prompts, pairs=pairs, approvers=approvers))
    if not lacks:
        lacks += _weak_judges(policy, judges, pairs=pairs, confidence=confidence)
    if not lacks and found[0] is None:
        lacks.append("no gain at all would be promoted with a chance of 80 %: add prompts, or better judges")
    return _PresetAdvice(policy=name, fits=not lacks, shown_in_80=found[0], shown_in_90=found[1], lacks=tuple(lacks))


def _lacks(
    policy: GatePolicy, judges: Sequence[AdvisedJudge], *, prompts: int, pairs: int, approvers: int
) -> Iterator[str]:
    """Yield what the policy requires and the project does not have, with both numbers."""
    families = len({judge.encoder for judge in judges})
    for have, need, what in (
        (prompts, policy.minimum_prompts, "prompts"),
        (len(judges), policy.voting_judges, "judges"),
        (families, policy.families, "encoder families of judges"),
        (pairs, policy.minimum_calibration_pairs, "human pairs for calibration"),
    ):
        if have < need:
            yield f"{what}: {have} of {need}"
    if policy.mode == "enforce" and policy.needs_person and not approvers:
        yield '[approval] with mode = "required" and approvers'


def _weak_judges(policy: GatePolicy, judges: Sequence[AdvisedJudge], *, pairs: int, confidence: float) -> Iterator[str]:
    """Yield the human pairs that are needed if fewer judges than required are likely to be admitted to vote."""
    chances = {judge.judge: _admitted(judge, policy, pairs, confidence) for judge in judges}
    likely = [name for name, chance in chances.items() if chance >= 0.5]
    if len(likely) >= policy.voting_judges:
        return
    for judge in judges:
        if judge.judge not in likely:
            need = _pairs_needed(judge.agreement, policy, confidence)
            more = f"{need} human pairs give 90 %" if need else "no number of pairs is enough: use another judge"
            yield f"{judge.judge} would be admitted to vote in {chances[judge.judge]:.0%} of cases; {more}"


def _target(rate: float, policy: GatePolicy, judges: Sequence[AdvisedJudge], confidence: float) -> _Target:
    better = [judge.model_copy(update={"agreement": max(BETTER_JUDGES, judge.agreement)}) for judge in judges]

    def needed(power: float, those: Sequence[AdvisedJudge]) -> int | None:
        def at(prompts: int) -> float:
            return _promoted_share(policy, those, win_rate=rate, prompts=prompts, confidence=confidence)

        found = prompts_needed(at, power)
        return max(found, policy.minimum_prompts) if found else None

    return _Target(
        people_prefer=rate,
        prompts_for_80=needed(POWERS[0], judges),
        prompts_for_90=needed(POWERS[1], judges),
        prompts_for_90_with_better_judges=needed(POWERS[1], better),
    )


def _sentences(
    policy: GatePolicy,
    rows: Sequence[_PresetAdvice],
    judges: Sequence[AdvisedJudge],
    advised: Preset | None,
    *,
    human_pairs: int,
    confidence: float,
) -> Iterator[str]:
    own = {row.policy: row for row in rows}
    if advised is None:
        yield (
            f"No preset fits. The nearest is small, which lacks: {'; '.join(own['small'].lacks)}. Until then set"
            ' gate.mode = "off" and promote with `plumbline promote --by-hand`, after looking at the images.'
        )
    else:
        shown = own[advised].shown_in_90
        limit = f"{shown:.1%} among people" if shown else "more than any, with a chance of 90 %"
        yield f'Use preset = "{advised}". It promotes gains from a win rate of {limit} with a chance of 90 %.'
    if policy.mode == "off":
        yield "gate.mode is off now, so nothing is judged."
    unmeasured = [judge.judge for judge in judges if judge.basis != "measured"]
    if unmeasured:
        yield (
            f"The agreement of {', '.join(unmeasured)} with people is not measured on {ENOUGH_PAIRS} pairs or more, so"
            " a published or assumed one is used. `plumbline calibrate` measures it."
        )
    basis = GatePolicy.model_validate({"preset": advised or "small"})
    for judge in judges:
        need = _pairs_needed(judge.agreement, basis, confidence)
        if need and need > (judge.pairs or human_pairs):
            yield f"{judge.judge} may vote under {basis.preset} in 90 % of cases with {need} human pairs."
