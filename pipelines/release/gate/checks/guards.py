"""Guards: the candidate may not be worse than the champion by more than a margin, and must stay within limits.

Every limit of every guard has to hold, so no correction is needed (intersection-union).

Each promotion may lose a little, so a row of them could lose a lot. Guards therefore hold against an anchor too, the
base model or the best of those promoted, with a separate margin.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alignment.contracts.judges import Judge
from alignment.statistics.comparison import DIFFERENCE_DECIMALS, Floats, SeedGrid, mean_interval
from alignment.statistics.noninferiority import mcnemar_p_value, paired_share_interval, share_interval
from pipelines.contracts.release import GateCheck, Relation
from pipelines.project.gate import GuardRule
from pipelines.release.gate.checks.interface import Evidence, Finding, Verdict, finite

Bools = NDArray[np.bool_]

DUST = 10.0**-DIFFERENCE_DECIMALS
"""The rounding error within which two bounds count as equal."""


def guard_checks(evidence: Evidence) -> list[Finding]:
    """Return one decisive finding per limit of each guard in the policy or the report, or a warning that there is none.

    Statistics with only a drift rule are not guards.
    """
    measured = {guard.name: guard for guard in evidence.report.spec.guards}
    names = sorted({*measured, *evidence.policy.guards} - set(evidence.policy.detectors.drift))
    if not names:
        return [_unguarded()]
    return [finding for name in names for finding in _guard(evidence, name, measured.get(name))]


def _unguarded() -> Finding:
    """Warn that there is no guard: a candidate can please the judges at the cost of everything they do not measure."""
    check = GateCheck(
        kind="guards",
        relation=">=",
        bound=1,
        measured=0,
        passed=False,
        decisive=False,
        family="guards",
        note="warning",
        explanation="The policy has no guard: it is unknown whether prompt fidelity, diversity or safety got worse. Add"
        " evaluation.guards and their rules in gate.guards.",
    )
    return Finding(check)


def _guard(evidence: Evidence, name: str, guard: Judge | None) -> list[Finding]:
    rule = evidence.policy.guards.get(name)
    fault = _fault(evidence, name, guard)
    if fault or rule is None:
        required = "a rule" if rule is None else "measured and independent"
        check = GateCheck(
            kind="guard",
            subject=name,
            measured=None,
            required=required,
            passed=False,
            family="guards",
            explanation=fault,
        )
        return [Finding(check, "invalid")]
    lines = _share_lines(evidence, name, rule) if rule.threshold is not None else _mean_lines(evidence, name, rule)
    return [line.finding() for line in [*lines, *_anchor_lines(evidence, name, rule)]]


def _fault(evidence: Evidence, name: str, guard: Judge | None) -> str:
    """Return the reason why a guard cannot be used, as a sentence; empty when it can."""
    comparison = evidence.against_champion(name)
    if name not in evidence.policy.guards:
        return f"Guard {name} was measured but the policy has no rule for it. Add gate.guards.{name}."
    if guard is None or comparison is None:
        return f"Guard {name} is in the policy but was not measured. Add it to evaluation.guards."
    if not (math.isfinite(comparison.mean_difference_low) and math.isfinite(comparison.mean_difference_high)):
        return f"Guard {name} has a bound that is not finite. Evaluate again."
    if evidence.differences(name) is None:
        return f"Guard {name} has no complete grid in the score table. Evaluate again."
    shared = evidence.shared_sources(guard)
    if shared:
        return f"Guard {name} is not independent of the candidate: both learnt from {', '.join(shared)}."
    return ""


@dataclass(frozen=True)
class _Limit:
    """A quantity whose interval must lie on one side of a limit."""

    guard: str
    low: float
    high: float
    bound: float
    side: Literal["above", "below"]
    text: str
    """The quantity with its interval: "the change against the champion is between ... and ..."."""
    tolerated: str
    kind: Literal["relative", "floor", "ceiling", "mcnemar", "anchor"] | None = None
    """None for the margin."""
    touching: bool = True
    """True if a quantity without uncertainty that equals the limit is within it, such as no change at all where no loss
    is tolerated."""

    def finding(self) -> Finding:
        """Return the finding: passed when the whole interval is on the right side, broken when all of it is on the
        wrong side."""
        at_bound = self.touching and all(
            math.isclose(value, self.bound, rel_tol=DUST, abs_tol=DUST) for value in (self.low, self.high)
        )
        relation: Relation
        if self.side == "above":
            passed, broken, measured = self.low > self.bound or at_bound, self.high <= self.bound, self.low
            relation = ">=" if at_bound else ">"
        else:
            passed, broken, measured = self.high < self.bound or at_bound, self.low >= self.bound, self.high
            relation = "<=" if at_bound else "<"
        label = f"{self.guard}:{self.kind}" if self.kind else self.guard
        result = "holds" if passed else "is broken" if broken else "is undecided, more prompts may settle it"
        check = GateCheck(
            kind="guard",
            subject=self.guard,
            limit=self.kind,
            relation=relation,
            bound=self.bound,
            measured=finite(measured),
            passed=passed,
            family="guards",
            note="" if passed or broken else "undecided",
            explanation=f"Guard {label} {result}: {self.text}, {self.tolerated}.",
        )
        allows: Verdict = "promote" if passed else "hold" if broken else "inconclusive"
        return Finding(check, allows)


# --- means ----------------------------------------------------------------------------------------------------------


def _mean_lines(evidence: Evidence, name: str, rule: GuardRule) -> list[_Limit]:
    comparison = evidence.against_champion(name)
    assert comparison is not None
    confidence = evidence.report.spec.confidence
    candidate_P, champion_P = (evidence.scores.grid(name, role).prompt_means() for role in ("candidate", "champion"))
    lines = []
    if rule.margin is not None:
        low, high = comparison.mean_difference_low, comparison.mean_difference_high
        lines.append(_change(name, low, high=high, margin=rule.margin, rule=rule, against="the champion"))
    if rule.relative_margin is not None:
        margin = rule.relative_margin
        means = (candidate_P, champion_P)
        lines.append(_relative(name, *means, margin=margin, rule=rule, confidence=confidence, whose="the champion's"))
    low, high = mean_interval(candidate_P, confidence=confidence)
    return [*lines, *_absolute(name, low, high=high, rule=rule, what="mean")]


def _change(name: str, low: float, *, high: float, margin: float, rule: GuardRule, against: str) -> _Limit:
    text = f"the change against {against} is between {low:.3g} and {high:.3g}"
    if rule.better == "lower":
        return _Limit(
            name, low, high, bound=margin, side="below", text=text, tolerated=f"a rise of {margin:g} is tolerated"
        )
    return _Limit(
        name, low, high, bound=0.0 - margin, side="above", text=text, tolerated=f"a drop of {margin:g} is tolerated"
    )


def _relative(
    name: str,
    candidate_P: Floats,
    other_P: Floats,
    *,
    margin: float,
    rule: GuardRule,
    confidence: float,
    whose: str,
) -> _Limit:
    """Bound candidate - (1 -+ margin) other over prompts, expressed as a share of the other model's mean.

    A share of a mean that is not positive has no meaning: then the guard stays undecided.
    """
    mean = float(other_P.mean())
    allowed = 0.0 - margin if rule.better == "higher" else margin
    low, high = mean_interval(candidate_P - (1 + allowed) * other_P, confidence=confidence)
    low, high = (low / mean + allowed, high / mean + allowed) if mean > 0 else (-math.inf, math.inf)
    return _Limit(
        name,
        low,
        high,
        bound=allowed,
        side="above" if rule.better == "higher" else "below",
        text=f"the change is between {low:.2%} and {high:.2%} of {whose} mean",
        tolerated=f"a loss of {margin:.2%} is tolerated",
        kind="relative",
    )


def _absolute(name: str, low: float, *, high: float, rule: GuardRule, what: str) -> list[_Limit]:
    text = f"the candidate's {what} is between {low:.3g} and {high:.3g}"
    lines = []
    if rule.floor is not None:
        tolerated = f"it must be above {rule.floor:g}"
        lines.append(_Limit(name, low, high, rule.floor, "above", text=text, tolerated=tolerated, kind="floor"))
    if rule.ceiling is not None:
        tolerated = f"it must be below {rule.ceiling:g}"
        lines.append(_Limit(name, low, high, rule.ceiling, "below", text=text, tolerated=tolerated, kind="ceiling"))
    return lines


# --- the anchor -----------------------------------------------------------------------------------------------------


def _anchor_lines(evidence: Evidence, name: str, rule: GuardRule) -> list[_Limit]:
    """Return the limit against the anchor; none where the base is the champion, or nothing limits a change."""
    own = rule.margin if rule.margin is not None else rule.relative_margin
    if evidence.policy.anchor == "none" or evidence.champion_version is None or own is None:
        return []
    margin = 2 * own if rule.anchor_margin is None else rule.anchor_margin
    confidence = evidence.report.spec.confidence
    against, anchor = _anchor(evidence, name, rule)
    candidate = evidence.scores.grid(name, "candidate")
    if rule.threshold is not None:
        good = _passing(anchor, rule)
        worsened, improved = _moved(_passing(candidate, rule), good)
        text = f"against {against} {worsened} prompts worsened and {improved} improved"
        line = _share_change(
            name, worsened, improved, prompts=len(good), margin=margin, text=text, confidence=confidence
        )
        return [replace(line, kind="anchor")]
    candidate_P, anchor_P = candidate.prompt_means(), anchor.prompt_means()
    if rule.margin is None:
        means, whose = (candidate_P, anchor_P), f"{against}'s"
        line = _relative(name, *means, margin=margin, rule=rule, confidence=confidence, whose=whose)
    else:
        low, high = mean_interval(candidate_P - anchor_P, confidence=confidence)
        line = _change(name, low, high=high, margin=margin, rule=rule, against=against)
    return [replace(line, kind="anchor")]


def _anchor(evidence: Evidence, name: str, rule: GuardRule) -> tuple[str, SeedGrid]:
    """Return the anchor's name for people and its scores.

    With the policy `best` it is the one of the base and the promoted versions that has the best mean, or the largest
    share of passing prompts.
    """
    known = {"the base model": evidence.scores.grid(name, "base")}
    if evidence.policy.anchor == "best":
        promoted = evidence.promoted.items()
        known |= {
            f"version {v}": grids.grid(name, "candidate") for v, grids in promoted if grids.has(name, "candidate")
        }

    def level(grid: SeedGrid) -> float:
        if rule.threshold is not None:
            return float(_passing(grid, rule).mean())
        mean = float(grid.prompt_means().mean())
        return mean if rule.better == "higher" else -mean

    best = max(known, key=lambda model: level(known[model]))
    return best, known[best]


# --- pass or fail per prompt ----------------------------------------------------------------------------------------


def _share_lines(evidence: Evidence, name: str, rule: GuardRule) -> list[_Limit]:
    """Return the limits of a guard with a threshold. A prompt passes when all its images do: the unit stays the prompt,
    because the images of one prompt are not independent."""
    assert rule.threshold is not None
    good = {role: _passing(evidence.scores.grid(name, role), rule) for role in ("candidate", "champion")}
    worsened, improved = _moved(good["candidate"], good["champion"])
    prompts, passing = len(good["candidate"]), int(good["candidate"].sum())
    confidence = evidence.report.spec.confidence
    text = f"of {prompts} prompts {worsened} worsened and {improved} improved"
    low, high = share_interval(passing, prompts, confidence=confidence)
    first = (
        _share_change(name, worsened, improved, prompts=prompts, margin=rule.margin, text=text, confidence=confidence)
        if rule.margin is not None
        else _mcnemar(name, worsened, improved, level=evidence.level, text=text)
    )
    return [first, *_absolute(name, low, high=high, rule=rule, what="share of prompts that pass")]


def _passing(grid: SeedGrid, rule: GuardRule) -> Bools:
    """Return for each prompt, or group of near-duplicates, whether all its images are on the better side of the
    threshold."""
    assert rule.threshold is not None
    on_side = grid.scores_NS >= rule.threshold if rule.better == "higher" else grid.scores_NS <= rule.threshold
    return grid.passing(on_side)


def _moved(candidate: Bools, other: Bools) -> tuple[int, int]:
    """Return the numbers of prompts that worsened and that improved."""
    return int((~candidate & other).sum()), int((candidate & ~other).sum())


def _share_change(
    name: str, worsened: int, improved: int, *, prompts: int, margin: float, text: str, confidence: float
) -> _Limit:
    low, high = paired_share_interval(worsened, improved, prompts, confidence=confidence)
    p_value = mcnemar_p_value(worsened, improved)
    return _Limit(
        name,
        low,
        high,
        bound=-margin,
        side="above",
        text=f"{text} (exact McNemar p = {p_value:.3g}), the share that passes changed by {low:.3g} to {high:.3g}",
        tolerated=f"a drop of {margin:g} is tolerated",
    )


def _mcnemar(name: str, worsened: int, improved: int, *, level: float, text: str) -> _Limit:
    """Return the limit without a margin: no significant worsening. A test has no interval, so both ends are its p."""
    p_value = mcnemar_p_value(worsened, improved)
    return _Limit(
        name,
        p_value,
        p_value,
        bound=level,
        side="above",
        text=f"{text}, exact McNemar p = {p_value:.3g}",
        tolerated=f"p at or below {level:g} shows harm",
        kind="mcnemar",
        touching=False,
    )
