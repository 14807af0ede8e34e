"""Measure the default policy's operating curve with the real gate code, and compare it with its bars.

Three judges (correlation 0.5), 1632 prompts, two seeds. Three tables: candidates whose truth is known, with four guards
with margins of 0.15 standard deviations and 12 slices; quarters of 50 candidates without a gain; and candidates by the
win rate among people, as judges see them who agree with people as often as published ones do. Exits with 1 when a bar
is missed. Run `python benchmarks/gate_operating_curve.py [SIMULATIONS]`: the number of simulations of each kind of
candidate that has a bar (default 2000); the others get a fifth of it. It takes half an hour on one core.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from pipelines.project.gate import GatePolicy, GuardRule
from pipelines.release.gate.simulated_project import DEFAULT_JUDGES, DEFAULT_PROMPTS, DEFAULT_SLICES
from pipelines.release.gate.simulated_worlds import (
    RARE_LOSSES,
    SLICE_LOSSES,
    Truth,
    World,
    among_people,
    rare_losses,
    slice_loss,
)
from pipelines.release.gate.simulation import Outcome, curve_table, false_promotions_per_quarter, operating_curve

GUARDS = ("prompt_match", "diversity", "safety", "artefacts")

WORLD = World(
    policy=GatePolicy(guards={name: GuardRule(margin=1.0) for name in GUARDS}),
    num_prompts=DEFAULT_PROMPTS,
    num_judges=DEFAULT_JUDGES,
    slices={f"slice_{index + 1}": 1.0 for index in range(DEFAULT_SLICES)},
)
"""The default policy with four guards, whose names and units a user chooses."""

VOTES = World(policy=GatePolicy(), num_prompts=DEFAULT_PROMPTS, num_judges=DEFAULT_JUDGES)
"""The default policy without guards and slices, which only stop candidates: what the votes alone let through."""

ONE_ENCODER = ("clip_vit_h_14", "clip_vit_h_14", "blip_vit_l_16")
TIES = {f"judge_{index + 1}": 0.5 for index in range(DEFAULT_JUDGES)}

BARS: tuple[tuple[Truth, World, str, float], ...] = (
    (Truth("no effect", good=False), VOTES, "<=", 0.025),
    (Truth("no effect, judges correlate 0.95", good=False), replace(VOTES, correlation=0.95), "<=", 0.025),
    (Truth("no effect, heavy tails", good=False), replace(VOTES, heavy_tails=True), "<=", 0.025),
    (Truth("no effect, ties below 0.5 sd", good=False), replace(VOTES, tie_thresholds=TIES), "<=", 0.025),
    (Truth("no effect, a group of 50 prompts", good=False), replace(VOTES, group_sizes=(50,)), "<=", 0.025),
    (Truth("no effect, groups of 3 prompts", good=False), replace(VOTES, group_sizes=(3,) * 500), "<=", 0.025),
    (Truth("one judge hacked by 0.5 sd", (0.5, 0.0), good=False), VOTES, "<=", 0.025),
    (
        Truth("two with one encoder hacked by 0.5 sd", (0.5, 0.5, 0.0), good=False),
        replace(VOTES, families=ONE_ENCODER),
        "<=",
        0.025,
    ),
    (Truth("two hacked by 0.5 sd, one loses 0.2", (0.5, 0.5, -0.2), good=False), VOTES, "<=", 0.025),
    (Truth("gain of 0.15 sd", (0.15,), good=True), WORLD, ">=", 0.90),
    (Truth("60 % win rate among perfect judges", (0.2533,), good=True), WORLD, ">=", 0.95),
)
OTHERS = (
    Truth("no effect", good=False),
    Truth("one hacked, others lose 0.05 sd", (0.5, -0.05), good=False),
    Truth("gain of 0.05 sd", (0.05,), good=True),
    Truth("gain of 0.1 sd", (0.1,), good=True),
    Truth("trained-on judge by 1 sd, others 0.1", (0.1,), trained_on_gain=1.0, good=False),
    Truth("gain of 0.2 sd, a guard loses twice its margin", (0.2,), guard_loss=2.0, good=False),
    *(rare_losses(*found) for found in RARE_LOSSES),
    *(slice_loss(loss) for loss in SLICE_LOSSES),
)

CANDIDATES = 50
LIKENESS = 0.95
QUARTERLY_BAR = 0.05

PEOPLE = (0.50, 0.55, 0.57, 0.60, 0.65)
AGREEMENTS = (0.62, 0.65, 0.70)
PROMPTS = (500, 1000, 1600)
HUMAN_PAIRS = 500


def known_candidates(simulations: int) -> tuple[list[Outcome], int]:
    """Print the first table. Return its rows and the number of missed bars."""
    outcomes: list[Outcome] = []
    rows = [(truth, world, simulations) for truth, world, _, _ in BARS]
    rows += [(truth, WORLD, max(1, simulations // 5)) for truth in OTHERS]
    for truth, world, number in rows:
        outcomes += operating_curve(world, [truth], simulations=number, seed=len(outcomes))
        print(f"{truth.name}: {outcomes[-1].verdicts}", file=sys.stderr, flush=True)
    print(curve_table(outcomes) + "\n")
    missed = 0
    for outcome, (truth, _, sign, bar) in zip(outcomes, BARS, strict=False):
        good = outcome.promoted <= bar if sign == "<=" else outcome.promoted >= bar
        missed += not good
        interval = f"{100 * outcome.promoted_low:.2f} to {100 * outcome.promoted_high:.2f} %"
        measured = f"{100 * outcome.promoted:.2f} % {sign} {100 * bar:g} % (95 % interval {interval})"
        print(f"{'met   ' if good else 'MISSED'} {truth.name}: {measured}")
    return outcomes, missed


def quarters(number: int) -> int:
    """Print the second table: with and without the limit over a quarter. Return 1 when its bar is missed."""
    print(f"\n{CANDIDATES} candidates without a gain, differences correlate {LIKENESS:g}, {number} quarters\n")
    print("| quarterly_error | quarters with a false promotion | 95 % interval |\n|---|---|---|")
    shares = []
    for budget in (0.05, 0.0):
        world = replace(VOTES, policy=VOTES.policy.model_copy(update={"quarterly_error": budget}))
        share, low, high = false_promotions_per_quarter(
            world, candidates=CANDIDATES, quarters=number, likeness=LIKENESS
        )
        shares.append(share)
        print(f"| {budget:g} | {100 * share:.1f} % | {100 * low:.1f} to {100 * high:.1f} |", flush=True)
    return int(shares[0] > QUARTERLY_BAR)


def people(simulations: int) -> None:
    """Print the third table: the share promoted by the win rate among people, agreement of judges, and prompts."""
    print(f"\npromoted, by people's win rate; agreement measured on {HUMAN_PAIRS} pairs; {simulations} simulations\n")
    print("| agreement | prompts |" + "".join(f" {rate:.0%} |" for rate in PEOPLE))
    print("|---|---|" + "---|" * len(PEOPLE))
    for accuracy in AGREEMENTS:
        for prompts in PROMPTS:
            world = replace(VOTES, num_prompts=prompts, accuracy=accuracy, calibration_pairs=HUMAN_PAIRS)
            truths = [among_people(rate, accuracy) for rate in PEOPLE]
            print(f"| {accuracy:g} | {prompts} |{_cells(operating_curve(world, truths, simulations=simulations))}")
            sys.stdout.flush()


def _cells(outcomes: Sequence[Outcome]) -> str:
    return "".join(f" {100 * outcome.promoted:.0f} % |" for outcome in outcomes)


def main(simulations: int) -> int:
    """Measure and print. Return 1 when a bar is missed."""
    started = time.process_time()
    print(f"default policy, {DEFAULT_PROMPTS} prompts, {simulations} simulations of each kind with a bar\n")
    outcomes, missed = known_candidates(simulations)
    total = sum(outcome.simulations for outcome in outcomes)
    print(f"\n{(time.process_time() - started) / total * 1000:.0f} ms of CPU per decision")
    missed += quarters(max(1, simulations // 5))
    people(max(1, simulations // 5))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
