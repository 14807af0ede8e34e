"""Arguments and options that several commands share."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

_PROJECT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def existing_path(ctx: typer.Context, parameter: typer.CallbackParam, path: Path | str | None) -> Path | str | None:
    """Return `path`; ValueError with the nearest name when the file does not exist.

    A parameter whose metavar is PROJECT also takes the name of a project, and so does one whose help begins with
    "Project". A file of that name comes first.
    """
    if path is None or ctx.resilient_parsing or Path(path).is_file():
        return path
    takes_project = parameter.metavar == "PROJECT" or str(getattr(parameter, "help", "")).startswith("Project")
    if takes_project and _PROJECT_NAME.fullmatch(str(path)):
        found = _named_project(ctx, str(path))
        return found if isinstance(path, Path) else str(found)
    if parameter.metavar == "PROJECT":
        hint = _suggestion(ctx, Path(path)) or " Give the name of a project or the path of a projects/NAME.toml."
        raise ValueError(f"Project file {path} does not exist.{hint}")
    if not Path(path).exists():
        raise ValueError(f"File {path} does not exist.{_suggestion(ctx, Path(path))}")
    return path


def _named_project(ctx: typer.Context, name: str) -> Path:
    """Return the file of a project by its name; a mistyped sub-command is suggested too."""
    from pipelines.project.file import find_project
    from pipelines.settings import load_settings

    return find_project(name, load_settings().projects_dir, also=_sub_commands(ctx))


def _sub_commands(ctx: typer.Context) -> list[str]:
    return list(getattr(ctx.parent.command, "commands", ())) if ctx.parent and ctx.parent.parent else []


def _suggestion(ctx: typer.Context, path: Path) -> str:
    """Suggest the file or sub-command that was probably meant."""
    files = [*path.parent.glob(f"*{path.suffix}"), *path.parent.glob("*.toml"), *Path("projects").glob("*.toml")]
    names = [str(file) for file in files if file.is_file()]
    by_stem = [name for name in names if Path(name).stem == path.stem]
    found = [*get_close_matches(str(path), [*_sub_commands(ctx), *names], n=1), *by_stem]
    return f" Did you mean {found[0]!r}?" if found else ""


def _recipes(incomplete: str) -> list[str]:
    from alignment.config import known_recipes

    return [name for name in known_recipes() if name.startswith(incomplete)]


Project = Annotated[
    str,
    typer.Argument(
        metavar="PROJECT", help="Project: its name, or its file projects/NAME.toml.", callback=existing_path
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe overrides, e.g. objective.beta=2000 seed=7."),
]
Recipe = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Train this recipe instead of the project's recipes.", autocompletion=_recipes),
]
ModelVersion = Annotated[
    int | None,
    typer.Option("--version", metavar="N", help="Model version.", show_default="version of alias candidate"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]
