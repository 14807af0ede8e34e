"""Trial results, and their ranking. Pure.

The rule: only trials within the limits are ranked, in the order of the validation judge's mean gain over the base. The
first leads. A trial ties with the leader when the paired interval of their difference (same prompts, same seeds)
contains 0, and among tied trials the fastest wins.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from alignment.contracts.evaluation import Comparison
from alignment.contracts.values import Record, Sha256
from alignment.statistics.comparison import Floats, mean_interval

TrialOutcome = Literal["measured", "over_memory", "over_time", "out_of_memory", "diverged", "invalid"]


class Limits(Record):
    """Resources that the user has."""

    memory_gib: float
    """GiB of one GPU; on a host without a GPU, resident memory of one process."""
    hours: float
    """Wall clock for the search and the winner's whole run together."""


class TrialReport(Record):
    """Result of one trial. Values are measured unless stated otherwise; None where the trial ended earlier."""

    outcome: TrialOutcome
    recipe: str
    """Name of the starting recipe."""
    changes: tuple[str, ...]
    """Overrides that turn the starting recipe into the proposal."""
    micro_batch: int
    reason: str = ""
    """One sentence when the outcome is not `measured`."""
    spec_digest: Sha256 | None = None
    """Digest of the spec of the trial's training job."""
    memory_floor_gib: float | None = None
    """Estimate: weights, reference, gradients and optimiser states."""
    peak_memory_gib: float | None = None
    """Peak memory of the main process over the trial."""
    memory_beyond_floor_gib: float | None = None
    """Peak minus the estimate: activations, libraries and everything else that the estimate omits."""
    items_per_second: float | None = None
    """Pairs per second (for an online recipe, prompts per second), median over the steps after the first."""
    final_run_hours: float | None = None
    """Predicted hours from the pace: the complete run's steps without start-up, grids and checkpoints."""
    seconds: float = 0.0
    """Wall clock of the trial in the attempt that finished it."""
    evaluation_uri: str = ""
    against_base: Comparison | None = None
    """The validation judge's comparison of the trial's weights with the base."""
    judge_accuracy: float | None = None
    """Agreement of the validation judge with held-out human pairs."""


class Placing(Record):
    """Rank of a trial."""

    trial: int
    rank: int
    ties_with_leader: bool
    behind_leader_low: float
    behind_leader_high: float
    """Interval of the leader's mean score minus this trial's, in the judge's units."""


def rank(trials: Mapping[int, TrialReport], scores: Mapping[int, Floats], *, confidence: float) -> list[Placing]:
    """Rank measured trials, best first. `scores` holds a trial's mean over seeds for each prompt."""
    order = sorted(trials, key=lambda number: (-_gain(trials[number]), number))
    if not order:
        return []
    behind = {n: _behind(scores[order[0]], scores[n], confidence) for n in order}
    tied = [number for number in order if behind[number][0] <= 0]
    tied.sort(key=lambda number: (-(trials[number].items_per_second or 0.0), -_gain(trials[number]), number))
    placed = [*tied, *(number for number in order if number not in tied)]
    return [
        Placing(
            trial=number,
            rank=place,
            ties_with_leader=number in tied,
            behind_leader_low=behind[number][0],
            behind_leader_high=behind[number][1],
        )
        for place, number in enumerate(placed, start=1)
    ]


def explain_nothing_fits(trials: Sequence[TrialReport], limits: Limits) -> str:
    """Explain why no trial is left: how many each limit excluded, and what the least demanding would have needed."""
    if not trials:
        return f"No trial finished within {limits.hours:g} hours. Raise --hours."
    lines = []
    memory = [t.peak_memory_gib or t.memory_floor_gib for t in trials if t.outcome == "over_memory"]
    if memory:
        least = min(value for value in memory if value is not None)
        lines.append(
            f"{len(memory)} need more than {limits.memory_gib:g} GiB (the least: {least:.2f}); raise --gpu-memory, or"
            " allow smaller micro_batches or lora_ranks"
        )
    times = [t.final_run_hours for t in trials if t.outcome == "over_time" and t.final_run_hours is not None]
    if times:
        lines.append(
            f"{len(times)} would not finish within {limits.hours:g} hours (the shortest run: {min(times):.2f}); raise"
            " --hours, or start from recipes of fewer steps"
        )
    others = {"out_of_memory": "ran out of memory", "diverged": "diverged", "invalid": "were invalid recipes"}
    for outcome, text in others.items():
        found = [t for t in trials if t.outcome == outcome]
        if found:
            lines.append(f"{len(found)} {text} ({found[0].reason.splitlines()[0].rstrip('.')})")
    return f"None of {len(trials)} trials fits: {'; '.join(lines)}."


def _gain(trial: TrialReport) -> float:
    assert trial.against_base is not None, "only measured trials are ranked"
    return trial.against_base.mean_difference


def _behind(leader_P: Floats, other_P: Floats, confidence: float) -> tuple[float, float]:
    return mean_interval(leader_P - other_P, confidence=confidence)
