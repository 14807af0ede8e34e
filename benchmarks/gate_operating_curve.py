"""Measure the default policy's operating curve with the real gate code, and compare it with its bars.

Three judges (correlation 0.5), four guards with margins of 0.15 standard deviations, 1632 prompts in 12 slices, two
seeds. Prints a table and exits with 1 when a bar is missed. Run `python benchmarks/gate_operating_curve.py
[SIMULATIONS]`: the number of simulations of each kind of candidate that has a bar (default 2000); other kinds get a
fifth of it. It takes minutes on one core.
"""

import sys
import time

from pipelines.project.gate import GatePolicy, GuardRule
from pipelines.release.gate.simulated_project import DEFAULT_JUDGES, DEFAULT_PROMPTS, DEFAULT_SLICES
from pipelines.release.gate.simulation import (
    RARE_LOSSES,
    SLICE_LOSSES,
    Outcome,
    Truth,
    World,
    curve_table,
    operating_curve,
    rare_losses,
    slice_loss,
)

GUARDS = ("prompt_match", "diversity", "safety", "artefacts")

BARS: tuple[tuple[Truth, str, float], ...] = (
    (Truth("no effect", good=False), "<=", 0.025),
    (Truth("one judge hacked by 0.5 sd", (0.5, 0.0), good=False), "<=", 0.05),
    (Truth("one hacked, others lose 0.05 sd", (0.5, -0.05), good=False), "<=", 0.05),
    (Truth("gain of 0.15 sd", (0.15,), good=True), ">=", 0.90),
    (Truth("60 % true win rate", (0.2533,), good=True), ">=", 0.95),
)
OTHERS = (
    Truth("gain of 0.05 sd", (0.05,), good=True),
    Truth("gain of 0.1 sd", (0.1,), good=True),
    Truth("trained-on judge by 1 sd, others 0.1", (0.1,), trained_on_gain=1.0, good=False),
    Truth("gain of 0.2 sd, a guard loses twice its margin", (0.2,), guard_loss=2.0, good=False),
    *(rare_losses(*found) for found in RARE_LOSSES),
    *(slice_loss(loss) for loss in SLICE_LOSSES),
)


def default_world(num_prompts: int = DEFAULT_PROMPTS) -> World:
    """Return the default policy with four guards, whose names and units a user chooses."""
    return World(
        policy=GatePolicy(guards={name: GuardRule(margin=1.0) for name in GUARDS}),
        num_prompts=num_prompts,
        num_judges=DEFAULT_JUDGES,
        slices={f"slice_{index + 1}": 1.0 for index in range(DEFAULT_SLICES)},
    )


def met(outcome: Outcome, sign: str, bar: float) -> bool:
    """Return True if the share promoted meets the bar."""
    return outcome.promoted <= bar if sign == "<=" else outcome.promoted >= bar


def main(simulations: int) -> int:
    """Measure and print. Return 1 when a bar is missed."""
    started = time.process_time()
    outcomes = []
    for truths, number in (([truth for truth, _, _ in BARS], simulations), (OTHERS, max(1, simulations // 5))):
        for truth in truths:
            outcomes += operating_curve(default_world(), [truth], simulations=number, seed=len(outcomes))
            print(f"{truth.name}: {outcomes[-1].verdicts}", file=sys.stderr, flush=True)
    print(f"default policy, {DEFAULT_PROMPTS} prompts, {simulations} simulations of each kind with a bar\n")
    print(curve_table(outcomes))
    total = sum(outcome.simulations for outcome in outcomes)
    print(f"\n{(time.process_time() - started) / total * 1000:.0f} ms of CPU per decision\n")
    missed = 0
    for outcome, (truth, sign, bar) in zip(outcomes, BARS, strict=False):
        good = met(outcome, sign, bar)
        missed += not good
        print(f"{'met   ' if good else 'MISSED'} {truth.name}: {100 * outcome.promoted:.2f} % {sign} {100 * bar:g} %")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
