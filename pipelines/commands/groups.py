"""Build Typer commands from functions, and groups that also are a stage."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

Command = Callable[..., int]

STAGE = "PROJECT"
"""Name of a stage inside its group. In usage lines it takes the place of the project's path."""


class PlainCommand(TyperCommand):
    """A command whose usage line names required arguments without braces."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a type."""
        return _without_flag_types(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class StageCommand(PlainCommand):
    """The stage of a group. Its usage line already contains `PROJECT`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after `PROJECT`."""
        return [piece for piece in super().collect_usage_pieces(ctx) if piece != STAGE]


class PlainGroup(TyperGroup):
    """A group whose help shows flags without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a type."""
        return _without_flag_types(super().get_params(ctx))


class StageGroup(PlainGroup):
    """A stage beside sub-commands: `plumbline gate PROJECT` and `plumbline gate simulate FILE`.

    If the first word is not a sub-command, all words belong to the stage.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the stage's name if the first word is not a sub-command."""
        named = bool(args) and args[0] in (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if named or (ctx.resilient_parsing and not args) else [STAGE, *args])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return both forms of the usage."""
        return [f"({STAGE} [OPTIONS] | COMMAND [ARGS]...)"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the stage's arguments and options beside the sub-commands."""
        shown = copy.copy(self)
        shown.params = self.commands[STAGE].params
        super(StageGroup, shown).format_help(ctx, formatter)


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """Return `parameters`, the flags with an empty type instead of `<bool>`."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


def help_text(function: Callable[..., Any]) -> str:
    """Return the docstring with each paragraph on one line, as Typer wraps it to the terminal."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def command_group(commands: Mapping[str, Command], *, help: str) -> typer.Typer:
    """Build a group of sub-commands, which prints its help if called without one."""
    app = typer.Typer(help=help, cls=PlainGroup, no_args_is_help=True)
    for name, function in commands.items():
        app.command(name, help=help_text(function), cls=PlainCommand)(function)
    return app


def stage_group(stage: Command, commands: Mapping[str, Command]) -> typer.Typer:
    """Build a group of a stage and its sub-commands."""
    app = typer.Typer(help=help_text(stage), cls=StageGroup)
    app.command(STAGE, help=help_text(stage), cls=StageCommand, hidden=True)(stage)
    for name, function in commands.items():
        app.command(name, help=help_text(function), cls=PlainCommand)(function)
    return app
