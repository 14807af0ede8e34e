"""`plumbline rollback`, `reconcile`, `ledger` and `prune`: what is done with champions after the verdict."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.host import shell_user
from pipelines.stages import champion

DONE, FAILED, GATE_SAID_NO = 0, 1, 3

Answer = tuple[Any, int]
"""JSON value or text, and exit code."""


def add_arguments(name: str, command: argparse.ArgumentParser) -> None:
    """The options of one of these commands, or of `promote`; none for any other."""
    if name == "promote":
        help_text = "agree, as this user, to what somebody else had decided; nothing is judged"
        command.add_argument("--approve", action="store_true", help=help_text)
        command.add_argument("--decision", default="", help="with --approve: digest of the decision, or its beginning")
    elif name == "rollback":
        command.add_argument("--reason", required=True, help="why; kept in the ledger")
        command.add_argument("--from-version", type=int, metavar="N", help="the champion to leave; else nothing moves")
        where = command.add_mutually_exclusive_group()
        where.add_argument("--to-version", type=int, metavar="N", help="to this one, which the gate once promoted")
        where.add_argument("--to-base", action="store_true", help="to the base model, not to the version before")
        command.add_argument("--forward", action="store_true", help="back to the version that a rollback left")
    elif name == "reconcile":
        help_text = "put back what was moved by hand, whatever the policy"
        command.add_argument("--restore", action="store_true", help=help_text)
    elif name == "ledger":
        command.add_argument("--table", action="store_true", help="a table for people instead of JSON")
    elif name == "prune":
        command.add_argument("--keep", type=int, required=True, help="newest versions to keep in any case")


def approve(arguments: argparse.Namespace, candidate: dict[str, Any]) -> Answer:
    """Another person's decision agreed to and carried out; exit code 3 when the candidate is not the champion then."""
    promotion = champion.approve_by_hand(arguments.project, candidate, user=shell_user(), digest=arguments.decision)
    return [promotion], DONE if promotion["to_version"] == candidate["version"] else GATE_SAID_NO


def rollback(arguments: argparse.Namespace) -> Answer:
    """The previous champion, or the base model, back."""
    answer = champion.rollback(
        arguments.project,
        actor=shell_user(),
        reason=arguments.reason,
        from_version=arguments.from_version,
        to_version=arguments.to_version,
        to_base=arguments.to_base,
        forward=arguments.forward,
    )
    return answer, DONE


def reconcile(arguments: argparse.Namespace) -> Answer:
    """Whether alias, ledger and tags agree; exit code 1 when they do not."""
    restore = True if arguments.restore else None
    found = champion.reconcile(arguments.project, actor=shell_user(), restore=restore)
    return found, FAILED if found["state"] == "alarm" else DONE


def ledger(arguments: argparse.Namespace) -> Answer:
    """Every move of the champion, oldest first."""
    show = champion.history_table if arguments.table else champion.history
    return show(arguments.project), DONE


def prune(arguments: argparse.Namespace) -> Answer:
    """Old versions that no alias and no way back needs, deleted."""
    return champion.prune(arguments.project, keep=arguments.keep), DONE


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Answer]] = {
    "rollback": rollback,
    "reconcile": reconcile,
    "ledger": ledger,
    "prune": prune,
}
