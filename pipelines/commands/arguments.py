"""Arguments and options that several commands share."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer


def existing_path(ctx: typer.Context, parameter: typer.CallbackParam, path: Path | str | None) -> Path | str | None:
    """Return `path`; ValueError with the nearest name when the file does not exist."""
    if path is None or ctx.resilient_parsing:
        return path
    if parameter.metavar == "PROJECT":
        if not Path(path).is_file():
            hint = _suggestion(ctx, Path(path)) or " Give the path of a projects/NAME.toml."
            raise ValueError(f"Project file {path} does not exist.{hint}")
    elif not Path(path).exists():
        raise ValueError(f"File {path} does not exist.{_suggestion(ctx, Path(path))}")
    return path


def _suggestion(ctx: typer.Context, path: Path) -> str:
    """Suggest the file or sub-command that was probably meant."""
    commands = list(getattr(ctx.parent.command, "commands", ())) if ctx.parent and ctx.parent.parent else []
    files = [*path.parent.glob(f"*{path.suffix}"), *path.parent.glob("*.toml"), *Path("projects").glob("*.toml")]
    names = [str(file) for file in files if file.is_file()]
    by_stem = [name for name in names if Path(name).stem == path.stem]
    found = [*get_close_matches(str(path), [*commands, *names], n=1), *by_stem]
    return f" Did you mean {found[0]!r}?" if found else ""


def _recipes(incomplete: str) -> list[str]:
    from alignment.config import known_recipes

    return [name for name in known_recipes() if name.startswith(incomplete)]


Project = Annotated[
    str, typer.Argument(metavar="PROJECT", help="Project file, projects/NAME.toml.", callback=existing_path)
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
