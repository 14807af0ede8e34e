"""The plan of the kills: 20 of them, in four or five loops, each target at least twice, at random moments.

A moment is relative to the work, not to the clock, since a disturbed loop takes longer than an undisturbed one: so many
tasks finished, or so much of a job's usual time passed.
"""

import random
from dataclasses import dataclass
from typing import Literal

Target = Literal["encode", "train", "evaluate", "between stages", "scheduler", "triggerer", "mlflow", "database"]

JOBS: tuple[Target, ...] = ("encode", "train", "evaluate")
TARGETS: tuple[Target, ...] = (*JOBS, "between stages", "scheduler", "triggerer", "mlflow", "database")
NUM_KILLS = 20
KILLS_PER_LOOP = 4
VICTIMS = ("a rank", "all ranks", "the worker", "the supervisor", "everything, as with the host")
"""Processes of a job."""
LATEST_SHARE = 0.85
"""Of a job's usual time: later kills would often find that the job is over."""


@dataclass
class Kill:
    """One kill to come. `after_tasks` is for targets that are no jobs, `share` and `victim` for jobs."""

    target: Target
    after_tasks: int
    share: float
    victim: str
    pause_seconds: float
    """Time between the task that is waited for and the kill."""
    killed: str = ""
    """The processes that were killed; empty before."""

    def __str__(self) -> str:
        moment = f"{self.share:.0%} of the job" if self.target in JOBS else f"after {self.after_tasks} tasks"
        return f"{self.target} ({moment}): {self.killed or 'not yet'}"


def plan_kills(seed: int, num_tasks: int) -> list[list[Kill]]:
    """Return the kills of each loop. `num_tasks` is the number of tasks that a loop has."""
    rng = random.Random(seed)
    chosen = [*TARGETS, *TARGETS, *rng.sample(TARGETS, NUM_KILLS - 2 * len(TARGETS))]
    rng.shuffle(chosen)
    kills = [
        Kill(
            target=target,
            after_tasks=rng.randrange(num_tasks - 1),
            share=rng.uniform(0.0, LATEST_SHARE),
            victim=rng.choice(VICTIMS),
            pause_seconds=rng.uniform(0.0, 4.0),
        )
        for target in chosen
    ]
    return [kills[start : start + KILLS_PER_LOOP] for start in range(0, NUM_KILLS, KILLS_PER_LOOP)]
