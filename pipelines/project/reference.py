"""Reference of the project file, made from its models: `python -m pipelines.project.reference > docs/configuration.md`.

Every field has its type, default and docstring, in the order of the models.
"""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.project.file import Project
from pipelines.project.paths import LocalPath, RecipePath
from pipelines.project.schedules import Cron, Schedule

__all__ = ["Table", "field_docstrings", "reference", "tables"]

SET_BY_US = {"Project": {"path"}}
"""Fields that no project file may state, by the name of their model."""
NAMES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
MARKERS: dict[Any, str] = {
    get_args(LocalPath)[1]: "path or URI",
    get_args(RecipePath)[1]: "recipe name or path",
    get_args(Cron)[1]: "cron",
    get_args(Schedule)[1]: "schedule",
}
BOUNDS: tuple[tuple[type, str, str], ...] = (
    (Ge, "ge", "≥ {}"),
    (Gt, "gt", "> {}"),
    (Le, "le", "≤ {}"),
    (Lt, "lt", "< {}"),
    (MinLen, "min_length", "at least {} of them"),
)
EXPLAINED = {
    "base": "[Backbones](objectives.md#backbones)",
    "sources": "[Sources](projects.md#sources), [style and safety pairs](labels.md#style-and-safety-pairs)",
    "validation": "[Sources](projects.md#sources)",
    "snapshot": "[Sources](projects.md#sources)",
    "train": "[Recipes](projects.md#recipes)",
    "evaluation": "[The gate](gate.md), [Judges](judges.md)",
    "prompt_sets": "[Evaluation prompts](projects.md#evaluation-prompts)",
    "online": "[PRDP](objectives.md#prdp)",
    "rewards": "[Reward models](projects.md#reward-models)",
    "soup": "[Soup](projects.md#soup)",
    "labelling": "[Pairs without human labels](labels.md)",
    "captions": "[Captions](objectives.md#captions)",
    "gate": "[The gate](gate.md#policy)",
    "monitor": "[Monitoring](monitoring.md#the-monitor)",
    "approval": "[Approval](operations.md#approval)",
    "reconcile": "[Operations](operations.md)",
    "notify": "[Operations](operations.md)",
    "schedule": "[DAGs](dags.md)",
    "search": "[Recipe search](recipe_search.md)",
}
"""The page that explains a table."""
HEAD = """# Configuration

<!-- Made by `make docs-reference` from the models of the project file. Do not edit. -->

Every field of `projects/NAME.toml`, in the order of the models. An unknown or misspelt field is refused with its name
and the nearest known one. [Project files](projects.md) shows how the tables are used. A list of tables is written
with double brackets, as in `[[sources]]`. A relative path is taken from the folder of the project file; a URI begins
with its scheme, such as `s3://`. The environment variables of an installation are in
[Operations](operations.md#settings).
"""


class Table(NamedTuple):
    """One table of the project file; `heading` tells the kinds of a table apart."""

    heading: str
    model: type[BaseModel]


def reference() -> str:
    """The page docs/configuration.md."""
    found = list(tables(Project, ""))
    headings = {table.model: table.heading for table in reversed(found)}
    return HEAD + "".join(_table_text(table, headings) for table in found if headings[table.model] == table.heading)


def tables(model: type[BaseModel], path: str) -> Iterator[Table]:
    """Yield a table and the tables in it, depth first. A model that stands in several places is yielded for each."""
    yield Table(path or "Top level", model)
    for name, field in _fields(model):
        below = f"{path}.{name}" if path else name
        inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        for part in inner:
            yield from tables(part, f"{below}: {_kind(part)}" if len(inner) > 1 else below)


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstring of each field, in one line. A field with one possible value tells the kinds of a table apart."""
    fixed = [name for name, field in model.model_fields.items() if len(_values(field)) == 1]
    found = dict.fromkeys(fixed, "Selects this kind of table.")
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            found |= _own_docstrings(cls)
    return {name: text for name, text in found.items() if name in model.model_fields}


def _own_docstrings(cls: type) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    hidden = SET_BY_US.get(model.__name__, set())
    return [(name, field) for name, field in model.model_fields.items() if name not in hidden]


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _kind(model: type[BaseModel]) -> str:
    """The value of a model's discriminator: its first field with one possible value."""
    values = map(_values, model.model_fields.values())
    return next(str(found[0]) for found in values if len(found) == 1)


def _values(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


# --- text -----------------------------------------------------------------------------------------------------------


def _table_text(table: Table, headings: Mapping[type[BaseModel], str]) -> str:
    level = "###" if "." in table.heading else "##"
    docs = field_docstrings(table.model)
    rows = [
        f"| `{name}` | {_cell(_type(field.annotation, field.metadata, headings))} | {_cell(_default(field))}"
        f" | {_cell(docs.get(name, ''))} |"
        for name, field in _fields(table.model)
    ]
    summary = inspect.cleandoc(table.model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    page = EXPLAINED.get(table.heading.partition(":")[0])
    more = f" See {page}." if page else ""
    head = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(["", f"{level} {table.heading}", "", f"{_escaped(summary)}{more}", "", *head, *rows, ""])


def _type(annotation: Any, metadata: list[Any], headings: Mapping[type[BaseModel], str]) -> str:
    """Words for a type with its bounds."""
    named = next((MARKERS[mark] for mark in metadata if mark in MARKERS), "") if metadata else ""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0], list(args[1:]), headings)
    bounds = _bounds(metadata)
    if named:
        return named + bounds
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in args)
    if origin in (Union, UnionType):
        return " or ".join(_type(arg, [], headings) for arg in args if arg is not NoneType) + bounds
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(_type(arg, [], headings) for arg in args)}]"
    if origin is tuple:
        return f"list of {_type(args[0], [], headings)}{bounds}"
    if origin is dict:
        return f"table, each value {_type(args[1], [], headings)}"
    if annotation in headings:
        kind = headings[annotation].rpartition(": ")[2]
        return f"[{'table' if '.' in kind or kind == headings[annotation] else kind}](#{_anchor(headings[annotation])})"
    return NAMES[annotation] + bounds


def _bounds(metadata: list[Any]) -> str:
    """Limits of a value as they are written after its type."""
    flat = [part for mark in metadata for part in (getattr(mark, "metadata", None) or [mark])]
    found = [text.format(getattr(mark, name)) for mark in flat for kind, name, text in BOUNDS if isinstance(mark, kind)]
    patterns = [f"`{mark.pattern}`" for mark in flat if getattr(mark, "pattern", None)]
    return "".join(f", {text}" for text in (*found, *patterns))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        stated = value.model_dump(mode="json", exclude_unset=True)
        return f"`{_inline(stated)}`" if stated else "its defaults"
    return "none" if value is None else f"`{json.dumps(value)}`"


def _inline(table: Mapping[str, Any]) -> str:
    """A flat table in one line of TOML. JSON writes its values as TOML does."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items()) + " }"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("[[", "\\[\\[") if "`" not in text else text


def _anchor(heading: str) -> str:
    """The anchor of a heading, as repository browsers and MyST make it."""
    return heading.lower().replace(".", "").replace(":", "").replace(" ", "-")


if __name__ == "__main__":
    sys.stdout.write(reference())
