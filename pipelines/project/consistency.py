"""What a project file says that cannot be: told when it is read, not after hours of GPU work. Torch-free.

Each field may be fine by itself and no evaluation could ever satisfy them together. Everything is collected and told
at once; each fault names the field, its value, what is allowed and what to do.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from alignment.catalogues.lookup import unknown_name
from pipelines.project.gate import GatePolicy
from pipelines.project.sections import EvaluationSection

HALF = 0.5


def check_measures(evaluation: EvaluationSection, policy: GatePolicy, origin: str) -> None:
    """ValueError with every fault of what is measured, and of what the gate asks of it."""
    faults = [*_evaluation_faults(evaluation), *_policy_faults(policy)]
    if policy.mode != "off":
        faults += _gate_faults(evaluation, policy)
    if faults:
        lines = "".join(f"\n- {fault}" for fault in faults)
        raise ValueError(f"{origin} asks for what cannot be ({len(faults)} found):{lines}")


def _evaluation_faults(evaluation: EvaluationSection) -> Iterator[str]:
    scorers = [own.name for own in (*evaluation.judges, *evaluation.guards)]
    for name in _repeated(scorers):
        yield f"evaluation: {scorers.count(name)} judges or guards are called {name!r}. Give each a name of its own."
    if not HALF < evaluation.confidence < 1:
        yield (
            f"evaluation.confidence is {evaluation.confidence:g}: a share above 0.5 and below 1 is allowed. Write 0.95"
            " for two-sided intervals of 95 %."
        )
    if not evaluation.seeds:
        yield "evaluation.seeds is empty. Give one seed or more, e.g. [0, 1]."
    for seed in _repeated(evaluation.seeds):
        yield (
            f"evaluation.seeds has {seed} {evaluation.seeds.count(seed)} times: that is one image counted so often."
            " Give seeds that differ, e.g. [0, 1]."
        )
    for name, threshold in sorted(evaluation.tie_thresholds.items()):
        if name not in scorers:
            yield f"evaluation.tie_thresholds: {unknown_name('scorer', name, scorers)}"
        if not 0 <= threshold < math.inf:
            yield (
                f"evaluation.tie_thresholds.{name} is {threshold:g}: 0 or a larger finite difference is allowed."
                " `plumbline gate aa` measures one."
            )


def _policy_faults(policy: GatePolicy) -> Iterator[str]:
    for name, rule in sorted(policy.guards.items()):
        if rule.floor is not None and rule.ceiling is not None and rule.floor >= rule.ceiling:
            yield (
                f"gate.guards.{name}: floor {rule.floor:g} is not below ceiling {rule.ceiling:g}, so nothing could lie"
                " between. Raise the ceiling, lower the floor, or leave one out."
            )
    if not policy.slices.margin < HALF:
        yield (
            f"gate.slices.margin is {policy.slices.margin:g}: it is how far a win rate may lie below one half, so less"
            ' than 0.5 is allowed. Write 0.05, or action = "off" to look at no slice.'
        )
    if not policy.calibration_floor < 1:
        yield (
            f"gate.calibration_floor is {policy.calibration_floor:g}: no judge's lower bound exceeds 1. Write 0.6, or"
            " anything below 1."
        )


def _gate_faults(evaluation: EvaluationSection, policy: GatePolicy) -> Iterator[str]:
    """What the gate would need and the evaluation does not measure, and the reverse."""
    judges, guards = len(evaluation.judges), [guard.name for guard in evaluation.guards]
    for field in ("required_judges", "minimum_voting_judges"):
        asked = getattr(policy, field)
        if asked > judges:
            yield (
                f"gate.{field} is {asked}, but evaluation has {judges} judge{'s' * (judges != 1)}: at most that many"
                " can vote. Name more [[evaluation.judges]], or lower it."
            )
    for table, names in (("gate.guards", policy.guards), ("gate.detectors.drift", policy.detectors.drift)):
        for name in sorted(set(names) - set(guards)):
            known = f"The guards are {', '.join(guards)}." if guards else "There are no guards."
            yield (
                f"{table} has a rule for {name!r}, which no [[evaluation.guards]] measures. {known} Add it there, or"
                " take the rule out."
            )
    for name in sorted(set(guards) - set(policy.guards) - set(policy.detectors.drift)):
        yield (
            f"evaluation.guards has {name!r}, for which the gate has no rule. Give it one, e.g. [gate.guards]"
            f" {name} = {{ relative_margin = 0.05 }}, or one under [gate.detectors.drift]."
        )


def _repeated(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if values.count(value) > 1})
