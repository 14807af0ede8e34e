"""Measure how often each preset of the gate's policy promotes candidates of known quality, with the real gate code.

Judges agree with people in 65 % of pairs, as published ones do, measured on as many human pairs as the preset suits.
The differences of several judges correlate by 0.5. Prints one table, and exits with 1 when a preset promotes more
candidates without a gain than its level allows. For `small`, promoted means put to the approver.
Run `python benchmarks/gate_presets.py [SIMULATIONS]` (default 1000 of each kind of candidate), six minutes on one core.
"""

import sys
from dataclasses import replace

from pipelines.project.gate import GatePolicy, Preset
from pipelines.release.gate.simulated_worlds import Truth, World, among_people
from pipelines.release.gate.simulation import operating_curve

AGREEMENT = 0.65
PEOPLE = (0.55, 0.60, 0.65, 0.70, 0.80)
TRUTHS = (
    Truth("no gain", good=False),
    *(among_people(rate, AGREEMENT) for rate in PEOPLE),
    Truth("one judge hacked by 0.5 sd", (0.5, 0.0), good=False),
)
WORLDS: tuple[tuple[Preset, int, int, int], ...] = (
    ("small", 1, 100, 20),
    ("small", 1, 200, 20),
    ("small", 1, 500, 20),
    ("standard", 3, 500, 500),
    ("standard", 3, 1600, 500),
    ("strict", 3, 1000, 500),
    ("strict", 3, 1600, 1000),
)
"""Preset, judges, prompts and human pairs of each row."""
LEVELS: dict[Preset, float] = {"small": 0.025, "standard": 0.025, "strict": 0.005}
"""One-sided level of the first try of a quarter. With several judges less is promoted, as all votes must be false."""
ALLOWANCE = 3.0
"""Standard errors of the simulation by which a share may exceed its level by chance."""


def world_of(preset: Preset, judges: int, prompts: int, pairs: int) -> World:
    """Return the simulated world of one row, without guards and slices, which only stop candidates."""
    policy = GatePolicy.model_validate({"preset": preset})
    return World(policy=policy, num_prompts=prompts, num_judges=judges, accuracy=AGREEMENT, calibration_pairs=pairs)


def main(simulations: int) -> int:
    """Measure and print. Return 1 when a preset promotes too many candidates without a gain."""
    columns = ("no gain", *(f"{rate:.0%}" for rate in PEOPLE), "hacked")
    print("| preset | judges | prompts | pairs |" + "".join(f" {name} |" for name in columns))
    print("|---|---|---|---|" + "---|" * len(columns))
    missed = 0
    for preset, judges, prompts, pairs in WORLDS:
        world = world_of(preset, judges, prompts, pairs)
        found = operating_curve(world, TRUTHS, simulations=simulations)
        # Agreement measured exactly: the votes alone, without judges that were barred by chance.
        exact = operating_curve(replace(world, calibration_pairs=0), TRUTHS[:1], simulations=simulations)[0].promoted
        level = LEVELS[preset]
        missed += exact > level + ALLOWANCE * (level * (1 - level) / simulations) ** 0.5
        cells = "".join(f" {100 * outcome.promoted:.1f} % |" for outcome in found)
        print(f"| `{preset}` | {judges} | {prompts} | {pairs} |{cells}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
