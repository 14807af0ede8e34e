"""Slices: did any category of prompts get worse? Tests of harm, corrected together by Holm.

The mirror of a vote: a slice fails on signed-rank evidence that a judge likes it less, where the measured win rate lies
below one half by more than the margin. Evidence that the *rate* itself lies below that limit takes far more prompts,
and with forty lets gross harm pass (docs/log.md, the forty candidates). That nothing was found in so few still says
little: slices below the policy's number of prompts are reported as unmeasured rather than as passed, and the others say
how bad a slice would have been found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignment.contracts.evaluation import Comparison
from alignment.statistics.comparison import Floats, outcome_counts, superiority_p_value
from alignment.statistics.noninferiority import holm, mean_below_p_value
from alignment.statistics.power import win_rate_found
from pipelines.contracts.release import GateCheck
from pipelines.release.gate.checks.interface import Evidence, Finding, watch

FOUND = 0.9
"""Chance of being found of the loss that a line names."""

NO_CATEGORY = "No prompt names a category: fill the column category, or set gate.slices.action to off."
NOTHING_LARGE = (
    "No slice was measured: none has prompts enough (gate.slices.minimum_prompts) and a judge that may vote. Ask more"
    " prompts of each category, or have fewer categories."
)


@dataclass(frozen=True)
class _Test:
    """One scorer in one slice."""

    slice_name: str
    scorer: str
    measured: float
    limit: float
    p_value: float
    says: str
    tie_share: float | None = None
    """Of a judge; None of a guard."""


def slice_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """A line per slice, and one on how many of them were measured; nothing where the policy looks at none."""
    rule = evidence.policy.slices
    slices = evidence.scores.slices()
    if rule.action == "off":
        return []
    scorers = _scorers(evidence, voting)
    large = {name: mask for name, mask in slices.items() if mask.sum() >= rule.minimum_prompts}
    tests = [test for name, mask in large.items() for test in _tests(evidence, scorers, name, mask)]
    adjusted, rejected = holm([test.p_value for test in tests], level=evidence.level)
    findings = [
        _measured({name: int(mask.sum()) for name, mask in slices.items()}, {test.slice_name for test in tests})
    ]
    for name, mask in slices.items():
        own = [(t, p, r) for t, p, r in zip(tests, adjusted, rejected, strict=True) if t.slice_name == name]
        prompts = int(mask.sum())
        found = _smallest_found(own, prompts, evidence.level / max(1, len(tests)))
        findings.append(_slice(evidence, name, prompts, own, found=found) if own else _unmeasured(name, prompts))
    return findings


def _measured(prompts: Mapping[str, int], measured: set[str]) -> Finding:
    """How much of the prompts the slices' tests speak of; a warning when that is nothing."""
    seen = sum(own for name, own in prompts.items() if name in measured)
    if measured:
        says = f"{len(measured)} of {len(prompts)} slices were measured, {seen} of {sum(prompts.values())} prompts."
    else:
        says = f"{NOTHING_LARGE if prompts else NO_CATEGORY} Nobody looked whether one kind of prompt got worse."
    check = GateCheck(
        kind="slices",
        relation=">=",
        bound=1,
        measured=len(measured),
        passed=bool(measured),
        decisive=False,
        family="slices",
        note="" if measured else "warning",
        explanation=says,
    )
    return Finding(check)


def _smallest_found(tests: Sequence[tuple[_Test, float, bool]], prompts: int, level: float) -> str:
    """What loss a slice of so many prompts shows: the win rate that one judge alone finds in nine of ten cases."""
    judges = [(test.limit, test.tie_share) for test, _, _ in tests if test.tie_share is not None]
    rates = [
        win_rate_found(prompts, limit=limit, level=level, power=FOUND, tie_share=ties or 0.0) for limit, ties in judges
    ]
    found = max((rate for rate in rates if rate is not None), default=None)
    if found is None:
        return "; so few prompts show no loss under a judge" if judges else ""
    return f"; one judge alone finds a win rate of {found:.2f} or less in {FOUND:.0%} of cases"


def _scorers(evidence: Evidence, voting: Sequence[Comparison]) -> dict[str, Floats]:
    """Differences of each voting judge and of each guard that has a margin for slices, good upwards."""
    found = {}
    for judge in (comparison.scorer for comparison in voting):
        found[judge] = evidence.differences(judge)
    for guard, rule in sorted(evidence.policy.guards.items()):
        differences_P = evidence.differences(guard)
        if rule.slice_margin is not None and differences_P is not None:
            found[guard] = differences_P if rule.better == "higher" else -differences_P
    prompts = len(evidence.scores.categories)
    return {name: own for name, own in found.items() if own is not None and len(own) == prompts}


def _tests(evidence: Evidence, scorers: Mapping[str, Floats], name: str, mask: npt.NDArray[np.bool_]) -> list[_Test]:
    """A judge is asked whether it likes the slice less, a guard for its mean change."""
    tests = []
    for scorer, differences_P in scorers.items():
        rule = evidence.policy.guards.get(scorer)
        if rule is not None and rule.slice_margin is not None:
            tests.append(_mean(name, scorer, differences_P[mask], limit=-rule.slice_margin))
        else:
            threshold = evidence.report.spec.tie_thresholds.get(scorer, 0.0)
            limit = 0.5 - evidence.policy.slices.margin
            tests.append(_win_rate(name, scorer, differences_P[mask], threshold=threshold, limit=limit))
    return tests


def _win_rate(name: str, judge: str, own_P: Floats, *, threshold: float, limit: float) -> _Test:
    """A loss that is within the margin as measured is none: its p is 1, which can only make the test more careful."""
    wins, ties, losses = outcome_counts(own_P, threshold)
    rate = (wins + ties / 2) / len(own_P)
    p_value = superiority_p_value(-own_P) if rate < limit else 1.0
    says = f"{judge} win rate {rate:.3f} ({wins} wins, {ties} ties, {losses} losses)"
    return _Test(name, judge, rate, limit, p_value, says, tie_share=ties / len(own_P))


def _mean(name: str, guard: str, own_P: Floats, *, limit: float) -> _Test:
    mean = float(own_P.mean())
    return _Test(name, guard, mean, limit, mean_below_p_value(own_P, limit), f"{guard} mean change {mean:.3g}")


def _slice(
    evidence: Evidence, name: str, prompts: int, tests: Sequence[tuple[_Test, float, bool]], *, found: str
) -> Finding:
    """One line: the test with the smallest adjusted p speaks for the slice."""
    worst, p_value, _ = min(tests, key=lambda entry: entry[1])
    broken = [test for test, _, rejected in tests if rejected]
    says = "got worse" if broken else "shows no harm"
    check = GateCheck(
        kind="slice",
        subject=name,
        relation="not below",
        bound=worst.limit,
        measured=worst.measured,
        passed=True,
        family="slices",
        explanation=f"Slice {name} {says} on {prompts} prompts: {'; '.join(t.says for t in broken) or worst.says},"
        f" evidence of harm p = {p_value:.3g} after Holm, level {evidence.level:g}{found}.",
    )
    return watch(check, evidence.policy.slices.action, breached=bool(broken))


def _unmeasured(name: str, prompts: int) -> Finding:
    """A slice too small to speak of: said, and without consequence."""
    check = GateCheck(
        kind="slice",
        subject=name,
        measured=None,
        required="enough prompts",
        passed=True,
        decisive=False,
        family="slices",
        note="unmeasured",
        explanation=f"Slice {name} is unmeasured: {prompts} prompts are too few to tell harm from chance.",
    )
    return Finding(check)
