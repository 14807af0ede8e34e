"""A project with one recipe in place of its own: a file of its own under the state dir, never an edit of the user's.

Everything that reads a project, DAG parsing and its tasks too, is then given the path of that file.
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
    """A project file that trains `recipe` alone and is otherwise what `project_path` says; its path.

    `projects/NAME/RECIPE.toml` beside the project, where there is one, says what else changes with the recipe: another
    judge, captions, a placement. The same recipe and overrides give the same path. ValueError, and no file, when the
    recipe is unknown or the project does not validate with it.
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
    for change in policy_changes(project, variant):
        log.warning("The gate is not the project's: %s, by %s", change, beside)
    return path


def policy_changes(project: Project, variant: Project) -> list[str]:
    """What a variant asks of a candidate that the project does not, or no longer asks: never to be passed over."""
    before, after = project.gate.model_dump(mode="json"), variant.gate.model_dump(mode="json")
    return [f"gate.{name} is {after[name]} instead of {before[name]}" for name in before if after[name] != before[name]]


def _toml(value: object) -> str:
    """Strings, and lists of them, in a form that JSON and TOML share."""
    return json.dumps(value, ensure_ascii=False)
