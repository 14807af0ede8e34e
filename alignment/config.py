"""Turn a recipe file and dotted overrides into a Recipe. Torch-free: a bad recipe fails on the scheduler."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from alignment.catalogues.lookup import unknown_name
from alignment.catalogues.objectives import OBJECTIVES
from alignment.contracts.training import Recipe

Model = TypeVar("Model", bound=BaseModel)

RECIPES_DIR = Path(__file__).parent / "recipes"


def known_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or a TOML file by path, with overrides such as `objective.beta=2000`.

    Raises ValueError that names every wrong field and the nearest known name.
    """
    is_path = name_or_path.endswith(".toml")
    path = Path(name_or_path) if is_path else RECIPES_DIR / f"{name_or_path}.toml"
    if not (path.is_file() if is_path else name_or_path in known_recipes()):
        raise ValueError(unknown_name("recipe", name_or_path, known_recipes()))
    return _parse_recipe({"name": path.stem, **read_toml(path)}, overrides=overrides)


def _parse_recipe(data: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Validate a recipe passed as plain data; see `load_recipe`."""
    for override in overrides:
        _apply_override(data, override)
    table = data.get("objective")
    objective = table.get("name") if isinstance(table, dict) else None
    known = [cls.model_fields["name"].default for cls in OBJECTIVES]
    if objective is not None and objective not in known:
        raise ValueError(unknown_name("objective", str(objective), known))
    recipe = validate(Recipe, data, what=f"recipe {data.get('name', '')!r}")
    if recipe.objective.online and recipe.caption_dropout:
        raise ValueError(
            f"recipe {recipe.name!r}: caption_dropout is {recipe.caption_dropout:g}, but {recipe.objective.name!r}"
            " generates images from their prompts. Remove caption_dropout from the recipe."
        )
    return recipe


def recipe_toml(recipe: Recipe, header: str) -> str:
    """Return a recipe file's text: the header (comment lines), then every field. `load_recipe` reads it back equal."""
    data = recipe.model_dump(mode="json", exclude={"schema_version", "name"})
    blocks = [header, _toml_values(data)]
    tables = [(name, value) for name, value in data.items() if isinstance(value, dict)]
    blocks += [f"[{name}]\n{_toml_values(value)}" for name, value in tables]
    return "\n\n".join(blocks) + "\n"


def _toml_values(table: dict[str, Any]) -> str:
    """KEY = VALUE lines for all values but tables. JSON writes strings, numbers, booleans and lists as TOML does."""
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in plain.items())


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. ValueError names the file and the line when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}. Fix the file and run again.") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in nested tables, in place. The value is parsed as TOML, or as JSON if it is an object; if both
    fail, it is a string.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"Override {override!r} is not KEY=VALUE, e.g. objective.beta=2000.")
    *parents, leaf = key.split(".")
    table = data
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ValueError(f"Override {override!r}: {parent!r} is a value, not a table.")
    value = _override_value(text)
    if isinstance(table.get(leaf), dict) and not isinstance(value, dict):
        raise ValueError(
            f"Override {override!r}: {key} is a table. Set one of its fields, e.g. {key}.FIELD=VALUE, or all of them,"
            f" {key}={{FIELD = VALUE, ...}} (TOML or JSON)."
        )
    table[leaf] = value


def _override_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text) if text.lstrip().startswith("{") else text
    except ValueError:
        return text


def validate(model: type[Model], data: dict[str, Any], what: str, context: object = None) -> Model:
    """Validate data; on failure raise one ValueError that lists every bad field. `context` goes to the validators."""
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        lines = [_field_problem(model, problem) for problem in error.errors()]
        raise ValueError(f"{what}: " + " ".join(lines)) from error


def _field_problem(model: type[BaseModel], problem: Any) -> str:
    """One sentence for one pydantic error: dotted field, problem, nearest known name."""
    location = [str(part) for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    if not location:
        return f"{message}."
    path, siblings = _walk(model, location)
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return unknown_name("field", dotted, [".".join([*path[:-1], name]) for name in siblings])
    value = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{dotted}: {message}{value}."


def _walk(model: type[BaseModel], location: list[str]) -> tuple[list[str], list[str]]:
    """Return the location as a user writes it, and the field names of the table that holds it.

    Tags of unions are steps of pydantic's path, but users do not type them, so they are dropped.
    """
    classes: list[type[BaseModel]] = [model]
    written = []
    for part in location[:-1]:
        fields = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        tagged = [c for c in classes if any(field.default == part for field in c.model_fields.values())]
        if fields or not tagged:
            written.append(part)
        if fields:
            classes = [found for annotation in fields for found in _model_classes(annotation)]
        else:
            classes = tagged or classes
    return [*written, location[-1]], sorted({name for cls in classes for name in cls.model_fields})


def _model_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for argument in get_args(annotation) for cls in _model_classes(argument)]
