"""Contradictions between settings of a project file, reported on reading, before any GPU work. Torch-free.

Fields that are valid separately may be such that no evaluation satisfies them together. One error reports all
contradictions; each names the field, its value, what is allowed and what to do.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from alignment.catalogues.lookup import unknown_name
from pipelines.project.approval import ApprovalSection
from pipelines.project.gate import GatePolicy
from pipelines.project.sections import EvaluationSection

HALF = 0.5


def check_measures(
    evaluation: EvaluationSection, policy: GatePolicy, origin: str, *, approval: ApprovalSection | None = None
) -> None:
    """Check evaluation and approval against the gate's policy; ValueError with every contradiction."""
    faults = [*_evaluation_faults(evaluation), *_policy_faults(policy)]
    if policy.mode != "off":
        faults += _gate_faults(evaluation, policy)
    if approval is not None and policy.mode == "enforce" and policy.needs_person and approval.mode != "required":
        faults.append(
            f"gate.preset is {policy.preset!r}, which promotes only what a person approves, but approval.mode is"
            f' {approval.mode!r}. Add [approval] with mode = "required" and approvers; or set gate.mode = "off" and'
            " promote with `plumbline promote --by-hand`."
        )
    if faults:
        lines = "".join(f"\n- {fault}" for fault in faults)
        count = "1 setting cannot work" if len(faults) == 1 else f"{len(faults)} settings contradict each other"
        raise ValueError(f"{origin}: {count}:{lines}")


def _evaluation_faults(evaluation: EvaluationSection) -> Iterator[str]:
    scorers = [own.name for own in (*evaluation.judges, *evaluation.guards)]
    for name in _repeated(scorers):
        yield f"evaluation: {scorers.count(name)} judges or guards are named {name!r}. Give each a different name."
    if not HALF < evaluation.confidence < 1:
        yield (
            f"evaluation.confidence is {evaluation.confidence:g}: it must be above 0.5 and below 1. Write 0.95"
            " for two-sided intervals of 95 %."
        )
    if not evaluation.seeds:
        yield "evaluation.seeds is empty. Give one or more seeds, e.g. [0, 1]."
    for seed in _repeated(evaluation.seeds):
        yield (
            f"evaluation.seeds has {seed} {evaluation.seeds.count(seed)} times: the same image would be counted"
            " repeatedly. Give different seeds, e.g. [0, 1]."
        )
    for name, threshold in sorted(evaluation.tie_thresholds.items()):
        if name not in scorers:
            yield f"evaluation.tie_thresholds: {unknown_name('scorer', name, scorers)}"
        if not 0 <= threshold < math.inf:
            yield (
                f"evaluation.tie_thresholds.{name} is {threshold:g}: it must be finite and at least 0."
                " Run `plumbline gate aa` to measure it."
            )


def _policy_faults(policy: GatePolicy) -> Iterator[str]:
    for name, rule in sorted(policy.guards.items()):
        if rule.floor is not None and rule.ceiling is not None and rule.floor >= rule.ceiling:
            yield (
                f"gate.guards.{name}: floor {rule.floor:g} is not below ceiling {rule.ceiling:g}, so no value satisfies"
                " both. Raise the ceiling, lower the floor, or remove one."
            )
    if not policy.slices.margin < HALF:
        yield (
            f"gate.slices.margin is {policy.slices.margin:g}: it is the distance of a win rate below one half, so it"
            ' must be less than 0.5. Write 0.05, or action = "off" to check no slice.'
        )
    if not policy.calibration_floor < 1:
        yield (
            f"gate.calibration_floor is {policy.calibration_floor:g}: no judge's lower bound exceeds 1. Write 0.6 or"
            " another value below 1."
        )


def _gate_faults(evaluation: EvaluationSection, policy: GatePolicy) -> Iterator[str]:
    """Yield what the gate requires and the evaluation does not measure, and the reverse."""
    judges, guards = len(evaluation.judges), [guard.name for guard in evaluation.guards]
    for field in ("required_judges", "minimum_voting_judges"):
        required = getattr(policy, field)
        if required > judges:
            yield (
                f"gate.{field} is {required}, but evaluation has {judges} judge{'s' * (judges != 1)}, so no more can"
                f" vote. Add [[evaluation.judges]], or lower gate.{field}."
            )
    families = {judge.encoder_family or judge.scorer.encoder_family or judge.name for judge in evaluation.judges}
    if len(families) < policy.families <= judges:
        yield (
            f"gate.required_families is {policy.required_families}, but all judges have the encoder"
            f" {' or '.join(sorted(families))}. Add a judge with another encoder, or set gate.required_families = 1."
        )
    for table, names in (("gate.guards", policy.guards), ("gate.detectors.drift", policy.detectors.drift)):
        for name in sorted(set(names) - set(guards)):
            known = f"The guards are {', '.join(guards)}." if guards else "There are no guards."
            yield (
                f"{table} has a rule for {name!r}, which is not in [[evaluation.guards]]. {known} Add it there, or"
                " remove the rule."
            )
    for name in sorted(set(guards) - set(policy.guards) - set(policy.detectors.drift)):
        yield (
            f"evaluation.guards has {name!r}, for which the gate has no rule. Add one, e.g. [gate.guards]"
            f" {name} = {{ relative_margin = 0.05 }}, or one under [gate.detectors.drift]."
        )


def _repeated(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if values.count(value) > 1})
