"""Slices: test each category of prompts for harm. The tests are corrected together by Holm's method.

A slice fails, as the mirror image of a vote, if a signed-rank test shows that a judge likes it less and the measured
win rate is below one half by more than the margin. Evidence that the win rate *itself* is below that limit needs many
more prompts: with forty of them gross harm would pass (docs/log.md, the forty candidates). Finding nothing in a few
prompts proves little: slices below the policy's number of prompts are reported as unmeasured, not as passed, and the
others state how large a loss would have been found.
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
"""Probability with which the loss that an explanation states would be found."""

NO_CATEGORY = (
    "No prompt has a category, so it is unknown whether one kind of prompt got worse. Fill the column category, or"
    " set gate.slices.action to off."
)
NOTHING_LARGE = (
    "No slice was measured, so it is unknown whether one kind of prompt got worse. A slice needs"
    " gate.slices.minimum_prompts prompts and a judge that may vote. Add prompts to each category, or use fewer"
    " categories."
)


@dataclass(frozen=True)
class _Test:
    """One scorer in one slice."""

    slice_name: str
    scorer: str
    measured: float
    limit: float
    p_value: float
    text: str
    tie_share: float | None = None
    """Share of ties under a judge; None for a guard."""


def slice_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """Return one finding per slice, and one on how many of them were measured; none when slices are switched off."""
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
    """Return how many slices and prompts the tests cover; a warning when there are none."""
    seen = sum(own for name, own in prompts.items() if name in measured)
    if measured:
        text = f"{len(measured)} of {len(prompts)} slices were measured, {seen} of {sum(prompts.values())} prompts."
    else:
        text = NOTHING_LARGE if prompts else NO_CATEGORY
    check = GateCheck(
        kind="slices",
        relation=">=",
        bound=1,
        measured=len(measured),
        passed=bool(measured),
        decisive=False,
        family="slices",
        note="" if measured else "warning",
        explanation=text,
    )
    return Finding(check)


def _smallest_found(tests: Sequence[tuple[_Test, float, bool]], prompts: int, level: float) -> str:
    """State the smallest loss that this number of prompts shows: the win rate that a single judge finds in 90 % of
    cases."""
    judges = [(test.limit, test.tie_share) for test, _, _ in tests if test.tie_share is not None]
    rates = [
        win_rate_found(prompts, limit=limit, level=level, power=FOUND, tie_share=ties or 0.0) for limit, ties in judges
    ]
    found = max((rate for rate in rates if rate is not None), default=None)
    if found is None:
        return "; so few prompts cannot show a loss under a single judge" if judges else ""
    return f"; a single judge would find a win rate of {found:.2f} or less in {FOUND:.0%} of cases"


def _scorers(evidence: Evidence, voting: Sequence[Comparison]) -> dict[str, Floats]:
    """Return the differences of each voting judge and of each guard with a slice margin; positive is better."""
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
    """Return the tests of one slice: a judge's win rate, a guard's mean change."""
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
    """Test one judge in one slice. A measured loss within the margin gets p = 1, which only makes the test more
    conservative."""
    wins, ties, losses = outcome_counts(own_P, threshold)
    rate = (wins + ties / 2) / len(own_P)
    p_value = superiority_p_value(-own_P) if rate < limit else 1.0
    text = f"{judge} win rate {rate:.3f} ({wins} wins, {ties} ties, {losses} losses)"
    return _Test(name, judge, rate, limit, p_value, text, tie_share=ties / len(own_P))


def _mean(name: str, guard: str, own_P: Floats, *, limit: float) -> _Test:
    mean = float(own_P.mean())
    return _Test(name, guard, mean, limit, mean_below_p_value(own_P, limit), f"{guard} mean change {mean:.3g}")


def _slice(
    evidence: Evidence, name: str, prompts: int, tests: Sequence[tuple[_Test, float, bool]], *, found: str
) -> Finding:
    """Return the finding of one slice, with the figures of the test with the smallest adjusted p."""
    worst, p_value, _ = min(tests, key=lambda entry: entry[1])
    broken = [test for test, _, rejected in tests if rejected]
    result = "got worse" if broken else "shows no harm"
    check = GateCheck(
        kind="slice",
        subject=name,
        relation="not below",
        bound=worst.limit,
        measured=worst.measured,
        passed=True,
        family="slices",
        explanation=f"Slice {name} {result} on {prompts} prompts: {'; '.join(t.text for t in broken) or worst.text},"
        f" p = {p_value:.3g} for harm (Holm-corrected, level {evidence.level:g}){found}.",
    )
    return watch(check, evidence.policy.slices.action, breached=bool(broken))


def _unmeasured(name: str, prompts: int) -> Finding:
    """Return the finding of a slice with too few prompts: reported, without consequence."""
    check = GateCheck(
        kind="slice",
        subject=name,
        measured=None,
        required="enough prompts",
        passed=True,
        decisive=False,
        family="slices",
        note="unmeasured",
        explanation=f"Slice {name} is unmeasured: {prompts} prompts are too few to distinguish harm from chance.",
    )
    return Finding(check)
