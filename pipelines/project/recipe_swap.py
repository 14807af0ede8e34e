"""Variants of a project with another recipe, each written to a separate file under the state dir.

The user's file is not changed. Commands, DAG parsing and tasks read the project from the path of the variant.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from alignment.config import load_recipe
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings

log = logging.getLogger(__name__)


def write_variant(project_path: Path, recipe: str, overrides: Sequence[str], settings: Settings) -> Path:
    """Write a project file that extends `project_path` and trains only `recipe`; return its path.

    If `projects/NAME/RECIPE.toml` exists beside the project, it adds the other changes that the recipe needs, such as a
    judge, captions or a placement. The same recipe and overrides give the same path. ValueError when the recipe is
    unknown or the project is not valid with it; no file is then left.
    """
    load_recipe(recipe, overrides)
    original = project_path.absolute()
    project = load_project(original)
    beside = original.parent / project.name / f"{Path(recipe).stem}.toml"
    parts = [original, *([beside] if beside.is_file() else [])]
    own = [str(original.parent / recipe) if recipe.endswith(".toml") else recipe, list(overrides)]
    text = "\n".join(
        [
            f"# {project.name} with the recipe {recipe}. Written by `plumbline`; the project itself is {original}.",
            f"extends = {_toml([str(part) for part in parts])}",
            "[[train]]",
            f"recipe = {_toml(own[0])}",
            f"overrides = {_toml(own[1])}",
            "",
        ]
    )
    identity = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = settings.state_dir / "projects" / f"{Path(recipe).stem}-{identity}" / original.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    try:
        variant = load_project(path)
    except ValueError:
        path.unlink()
        raise
    for change in _policy_changes(project, variant):
        log.warning("The gate differs from the project's: %s, set by %s", change, beside)
    return path


def _policy_changes(project: Project, variant: Project) -> list[str]:
    """List the differences between the gate policies of a variant and its project. Callers must report them."""
    before, after = project.gate.model_dump(mode="json"), variant.gate.model_dump(mode="json")
    return [f"gate.{name} is {after[name]} instead of {before[name]}" for name in before if after[name] != before[name]]


def _toml(value: object) -> str:
    """Format a string, or a list of strings, as JSON, which is valid TOML too."""
    return json.dumps(value, ensure_ascii=False)
