"""The command line: the app, its global options, and the exit code of an error.

Values go to stdout, as JSON on a pipe and as a summary on a terminal; progress and logs go to stderr. Exit codes: 0
done, 1 failed, 2 bad input, 3 the gate refused or a person has to approve. A stage needs only the project: the stages
before it run first, or their results are found by digest.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from pipelines.commands import (
    champion,
    gate,
    imports,
    jobs,
    loop,
    new,
    plan,
    platform,
    quarantine,
    sources,
    vote,
    withdrawals,
)
from pipelines.commands.answers import BAD_INPUT, DONE, FAILED, GATE_SAID_NO
from pipelines.commands.groups import PlainCommand, PlainGroup, help_text

__all__ = ["BAD_INPUT", "DONE", "FAILED", "GATE_SAID_NO", "PANELS", "app", "main"]

INTERRUPTED = 130

Entry = Callable[..., int] | typer.Typer

PANELS: Mapping[str, Mapping[str, Entry]] = {
    "Whole loop": {
        "demo": platform.demo,
        "new": new.new,
        "run": loop.run,
    },
    "Pairs": {
        "sources": sources.sources,
        "feedback": sources.feedback_app,
        "vote": vote.vote,
        "draw": loop.draw,
        "ingest": loop.ingest,
        "validate": loop.validate,
        "quarantine": quarantine.app,
        "snapshot": loop.snapshot,
        "diff": loop.diff,
        "withdraw": withdrawals.withdraw,
        "lineage": withdrawals.lineage,
        "purge": withdrawals.purge,
        "label": loop.label,
        "caption": loop.caption,
    },
    "Training": {
        "plan": plan.plan,
        "encode": loop.encode,
        "train": loop.train,
        "soup": loop.soup,
        "search": loop.search,
        "register": loop.register,
    },
    "Judges and prompts": {
        "reward": loop.reward,
        "calibrate": loop.calibrate,
        "judges": imports.judges_app,
        "prompts": imports.prompts_app,
    },
    "Gate and release": {
        "evaluate": loop.evaluate,
        "coverage": loop.coverage,
        "gate": gate.app,
        "compare": gate.compare,
        "promote": loop.promote,
        "canary": imports.canary,
        "export": champion.export,
    },
    "Champion": {
        "status": champion.status,
        "monitor": champion.monitor,
        "rollback": champion.rollback,
        "reconcile": champion.reconcile,
        "ledger": champion.ledger,
        "prune": champion.prune,
    },
    "Platform": {
        "up": platform.up,
        "down": platform.down,
        "setup-airflow": platform.setup_airflow,
        "doctor": platform.doctor,
        "jobs": jobs.app,
        "exporter": platform.exporter,
    },
}
"""Commands by panel, in the order of the help."""

_NOISY = ("alembic", "httpx", "great_expectations", "urllib3", "botocore", "mlflow")
# The base class of Typer's usage errors has no public name.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command = typer.main.get_command(app)
    try:
        code = int(command.main(argv, prog_name="plumbline", standalone_mode=False) or DONE)
    except _UsageError as error:
        return _refuse(_usage_message(error))
    except ValueError as error:
        return _refuse(str(error))
    except (RuntimeError, OSError, LookupError) as error:
        logging.debug("failed", exc_info=True)
        print(f"plumbline: {error}", file=sys.stderr)
        return FAILED
    if code == INTERRUPTED:
        print("plumbline: interrupted. Run the same command again to continue.", file=sys.stderr)
    return code


def _refuse(message: str) -> int:
    if message:
        print(f"plumbline: {message}", file=sys.stderr)
    return BAD_INPUT


def _usage_message(error: Any) -> str:
    """Return the error, the nearest option and the help command in one line; empty if the help was printed."""
    message, context = error.format_message(), error.ctx
    if getattr(error, "possibilities", None):
        nearest = get_close_matches(error.option_name, error.possibilities, n=1, cutoff=0)
        message = f"{error.message}. Did you mean {nearest[0]!r}?"
    if not message:
        return ""
    sentence = " ".join(message.split())
    hint = f" Try: {context.command_path} --help" if context else ""
    return f"{sentence}{'' if sentence[-1] in '.?!' else '.'}{hint}"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"plumbline {version('plumbline')}")
        raise typer.Exit()


def _global_options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print debug logs on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Keep a text-to-image model aligned with human preference.

    A command prints its value on stdout: a summary on a terminal, JSON on a pipe or with --json. Progress and logs go
    to stderr.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 the gate refused or a person has to approve.
    """
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _build() -> typer.Typer:
    built = typer.Typer(cls=PlainGroup, no_args_is_help=True, pretty_exceptions_enable=False)
    built.callback(help=help_text(_global_options))(_global_options)
    for panel, commands in PANELS.items():
        for name, entry in commands.items():
            if isinstance(entry, typer.Typer):
                built.add_typer(entry, name=name, rich_help_panel=panel)
            else:
                # A nameless app keeps the order: Typer lists the commands of an app before its groups.
                single = typer.Typer()
                single.command(name, help=help_text(entry), cls=PlainCommand, rich_help_panel=panel)(entry)
                built.add_typer(single)
    return built


app = _build()

if __name__ == "__main__":
    sys.exit(main())
