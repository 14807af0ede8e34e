"""Check the statistical power: were the prompts enough to find an effect worth finding?

Power qualifies the absence of evidence. Where the votes found too little, low power says that more prompts may find it.
Where they found a significant gain, low power says only that its size is probably overestimated.
"""

from collections.abc import Callable, Sequence

from alignment.contracts.evaluation import Comparison
from alignment.statistics.agreement import disattenuated_win_rate
from alignment.statistics.power import (
    WILCOXON_EFFICIENCY,
    k_of_n_power,
    noninferiority_power,
    prompts_needed,
    shift_power,
    win_rate_of_effect,
    win_rate_power,
)
from pipelines.contracts.release import GateCheck
from pipelines.project.gate import GatePolicy
from pipelines.release.gate.checks.interface import Evidence, Finding
from pipelines.release.gate.checks.votes import EVEN


def power_checks(evidence: Evidence, voting: Sequence[Comparison], *, found: bool) -> list[Finding]:
    """Return the power of the votes for the policy's effect and, for each guard with a margin, the chance that it holds
    if nothing changed, from the measured standard deviation.

    Only the first decides, and only when the votes have not found a gain (`found`). A guard with too few prompts is
    already undecided in its own check.
    """
    if len(voting) < evidence.policy.required_judges or not evidence.policy.power.required:
        return []
    return [_votes(evidence, voting, found=found), *_guards(evidence)]


def _vote_power(
    policy: GatePolicy, *, judges: int, level: float, minimum: float, tie_share: float
) -> Callable[[int], float]:
    """Return a function from number of prompts to the chance that enough of `judges` voting judges prefer a candidate
    with the policy's effect, where a judge's win rate must exceed `minimum`."""
    wanted = policy.power.effect
    each = level / max(1, judges - policy.required_judges + 1)

    def at(prompts: int) -> float:
        if policy.superiority == "win_rate":
            single = win_rate_power(
                win_rate_of_effect(wanted), prompts, minimum=minimum, level=each, tie_share=tie_share
            )
        else:
            single = shift_power(wanted, prompts, level=each, efficiency=WILCOXON_EFFICIENCY)
        return k_of_n_power(single, policy.required_judges, judges)

    return at


def _votes(evidence: Evidence, voting: Sequence[Comparison], *, found: bool) -> Finding:
    policy, prompts = evidence.policy, evidence.report.independent_prompts
    ties = max(comparison.ties / max(1, comparison.num_prompts) for comparison in voting)
    power_at = _vote_power(
        policy,
        judges=len(voting),
        level=evidence.vote_level,
        minimum=max(evidence.win_rate_needed(comparison.scorer) for comparison in voting),
        tie_share=min(1.0, max(0.0, ties)),
    )
    power, required = power_at(prompts), policy.power.required
    passed = power >= required
    needed = None if passed else prompts_needed(power_at, required)
    more = "" if passed else f" Use {needed} prompts." if needed else " No number of prompts is enough."
    if found and not passed:
        more = " The votes found a gain all the same, so this does not decide; its size is probably overestimated."
    check = GateCheck(
        kind="power",
        relation=">=",
        bound=required,
        measured=power,
        passed=passed,
        decisive=not found,
        family="power",
        note="" if passed else "warning" if found else "undecided",
        explanation=f"With {prompts} prompts, an effect of {policy.power.effect:g} standard deviations"
        f" ({_in_units(evidence, voting)}{_among_people(evidence, voting)}) is found with probability {power:.3f};"
        f" {required:g} is required.{more}",
    )
    return Finding(check, "promote" if passed or found else "inconclusive")


def _among_people(evidence: Evidence, voting: Sequence[Comparison]) -> str:
    """Return the win rate among people that the effect stands for at each judge's agreement with them."""
    rate = win_rate_of_effect(evidence.policy.power.effect)
    shown = [c.scorer for c in voting if EVEN < evidence.accuracy(c.scorer) < 1]
    parts = [f"{judge} {disattenuated_win_rate(rate, evidence.accuracy(judge)):.2f}" for judge in shown]
    return f"; as a win rate among people: {', '.join(parts)}" if parts else ""


def _in_units(evidence: Evidence, voting: Sequence[Comparison]) -> str:
    """Return the effect in each judge's own units, from the measured standard deviation."""
    parts = []
    for comparison in voting:
        differences_P = evidence.differences(comparison.scorer)
        if differences_P is not None:
            parts.append(f"{comparison.scorer} {evidence.policy.power.effect * float(differences_P.std(ddof=1)):.3g}")
    return ", ".join(parts) or "standard deviation unknown"


def _guards(evidence: Evidence) -> list[Finding]:
    findings = []
    for name, rule in sorted(evidence.policy.guards.items()):
        differences_P = evidence.differences(name)
        if rule.margin is None or rule.threshold is not None or differences_P is None:
            continue
        spread = float(differences_P.std(ddof=1))
        findings.append(_guard(evidence, name, spread=spread, margin=rule.margin))
    return findings


def _guard(evidence: Evidence, name: str, *, spread: float, margin: float) -> Finding:
    prompts, required = evidence.report.independent_prompts, evidence.policy.power.required

    def power_at(number: int) -> float:
        return noninferiority_power(margin, spread, number, level=evidence.level)

    power = power_at(prompts)
    needed = prompts_needed(power_at, required) if power < required and margin else None
    check = GateCheck(
        kind="power",
        subject=name,
        relation=">=",
        bound=required,
        measured=power,
        passed=power >= required,
        decisive=False,
        family="power",
        note="" if power >= required else "warning",
        explanation=f"If nothing changed, guard {name} holds with probability {power:.3f}: its difference has a"
        f" standard deviation of {spread:.3g} over prompts, and the margin is {margin:g}"
        + (f"; {needed} prompts give probability {required:g}." if needed else "."),
    )
    return Finding(check)
