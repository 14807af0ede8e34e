"""Names of jobs for people, in MLflow's run table and Airflow's lists of mapped tasks."""

from collections.abc import Mapping
from typing import Any

from pipelines.contracts.jobs import JobRequest

_SHOWN = 12
"""Characters of a digest that are shown."""


def job_title(request: JobRequest) -> str:
    """Return a name that tells a job from its neighbours.

    A training is named by its recipe and the settings that are varied most: `diffusion_dpo_shapes, beta 5000, rate
    1e-05, 400 steps, seed 0`. An evaluation is named by its two models, any other job by its kind and project.
    """
    recipe, spec = request.spec.get("recipe"), request.spec
    if isinstance(recipe, Mapping):
        title = _recipe_title(recipe)
    elif {"candidate", "champion"} <= set(spec):
        title = f"{request.kind} {_model(spec['candidate'])} against {_model(spec['champion'])}"
    else:
        title = f"{request.kind} {request.project} {request.spec_digest[:_SHOWN]}"
    again = f", generation {request.generation}" if request.generation else ""
    return f"{title}{again}"


def short_title(request: JobRequest) -> str:
    """Return the name of a recipe, else the job's title."""
    recipe = request.spec.get("recipe")
    return str(recipe["name"]) if isinstance(recipe, Mapping) and recipe.get("name") else job_title(request)


def _recipe_title(recipe: Mapping[str, Any]) -> str:
    objective, optimiser = recipe.get("objective") or {}, recipe.get("optimiser") or {}
    parts = {
        "beta": objective.get("beta"),
        "rate": optimiser.get("learning_rate"),
        "steps": recipe.get("steps"),
        "seed": recipe.get("seed"),
    }
    shown = {
        name: value if isinstance(value, int) else f"{value:g}" for name, value in parts.items() if value is not None
    }
    known = [f"{value} steps" if name == "steps" else f"{name} {value}" for name, value in shown.items()]
    return ", ".join([str(recipe.get("name", "recipe")), *known])


def _model(model: Mapping[str, Any]) -> str:
    return "base" if model.get("kind") == "base" else str(model.get("weights_digest", ""))[:_SHOWN]
