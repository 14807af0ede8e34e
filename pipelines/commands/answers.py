"""Print the value of a command and name its exit code."""

import json
import sys
from collections.abc import Sequence
from typing import Any

DONE, FAILED, BAD_INPUT, GATE_SAID_NO = 0, 1, 2, 3


def show(
    value: Any, *, as_json: bool, columns: Sequence[str] = (), rows: Sequence[dict[str, Any]] | None = None
) -> None:
    """Print `value` on stdout: a summary on a terminal, JSON on a pipe or with `--json`.

    `columns` are the fields to show, for records that have all of them. `rows` are shown as a table on a terminal
    instead of `value`.
    """
    if as_json or not sys.stdout.isatty():
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    from pipelines.commands import tables

    if rows is None:
        tables.print_summary(value, columns)
    else:
        tables.print_rows(rows)


def show_text(text: str, value: Any, *, as_json: bool) -> None:
    """Print `text`, on a terminal and on a pipe alike; with `--json` print `value`."""
    print(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)
