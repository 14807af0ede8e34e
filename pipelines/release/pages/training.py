"""Prepare the training run for the report: its recipe and its curves."""

import math
from collections.abc import Sequence

from alignment.contracts.jobs import (
    CHOSEN_ALARM_STEPS,
    CHOSEN_CHANGE,
    CHOSEN_WORSE_STEPS,
    HEALTH,
    NORM_RATIO,
    REWARD_GAIN,
    MetricsLine,
    norm_ratios,
)
from alignment.contracts.training import FullFineTune, Recipe

Points = Sequence[tuple[float, float]]

FIRST_METRICS = (
    "loss",
    REWARD_GAIN,
    "implicit_accuracy",
    "margin",
    CHOSEN_CHANGE,
    "rejected_error_minus_reference",
    "gradient_norm",
    "learning_rate",
    "pairs_per_second",
)
"""Shown first, in this order; all other metrics follow by name."""
MOST_METRICS = 12


def curves(lines: Sequence[MetricsLine]) -> dict[str, list[tuple[float, float]]]:
    """Map metric names to their finite (step, value) points; at most twelve metrics, the most informative first."""
    names = {name for line in lines for name in line.metrics if not name.startswith((NORM_RATIO, HEALTH))}
    ordered = [name for name in FIRST_METRICS if name in names] + sorted(names - set(FIRST_METRICS))
    found = {
        name: [
            (float(line.step), line.metrics[name])
            for line in lines
            if name in line.metrics and math.isfinite(line.metrics[name])
        ]
        for name in ordered
    }
    return {name: points for name, points in list(found.items())[:MOST_METRICS] if points}


def chosen_warning(lines: Sequence[MetricsLine]) -> str:
    """Return a warning when the chosen images were predicted worse than by the base for many steps, else nothing."""
    longest = max((line.metrics.get(CHOSEN_WORSE_STEPS, 0.0) for line in lines), default=0.0)
    if longest < CHOSEN_ALARM_STEPS:
        return ""
    worse = sum(line.metrics.get(CHOSEN_CHANGE, 0.0) > 0 for line in lines)
    return (
        f"The chosen images were predicted worse than by the base in {worse} of {len(lines)} logged steps,"
        f" {longest:.0f} of them in a row. The loss falls all the same, since it compares chosen with rejected images."
        " A lower learning rate or a higher beta keeps the policy closer to the base."
    )


def norm_note(lines: Sequence[MetricsLine]) -> str:
    """Return a sentence about the norm of the policy's predictions at the end; nothing if it was not measured."""
    ratios = norm_ratios(lines[-1].metrics) if lines else ()
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return (
        f"Mean norm of the predictions over the base's, from the least noise to the most: {listed}." if ratios else ""
    )


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """Return at most `most` points: means of equal runs of neighbours, each at the mean of its steps."""
    size = max(1, math.ceil(len(points) / most))
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def recipe_facts(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the main settings of a recipe as (name, value) pairs."""
    objective = recipe.objective
    settings = objective.model_dump(mode="json", exclude={"name"})
    method = objective.title + (f" ({objective.paper})" if objective.paper else "")
    tuning = recipe.tuning
    tuned = "every weight of the denoiser" if isinstance(tuning, FullFineTune) else f"LoRA, rank {tuning.rank}"
    optimiser = recipe.optimiser
    facts = [
        ("recipe", recipe.name),
        ("method", method),
        ("settings", ", ".join(f"{name} {value}" for name, value in settings.items()) or "none"),
        ("tuned", tuned),
        ("optimiser", f"{optimiser.kind}, learning rate {optimiser.learning_rate:g}"),
        ("length", f"{recipe.steps} steps of {recipe.global_batch}, seed {recipe.seed}, {recipe.precision}"),
    ]
    return [*facts, ("labels", "flipped, to test the gate")] if recipe.flip_labels else facts
