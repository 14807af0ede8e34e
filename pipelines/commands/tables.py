"""Print a JSON value as a summary and tables for a person at a terminal."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Record = dict[str, Any]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"(file|https?)://\S+$")
_HIDDEN = {"schema_version"}
_FAULT_WORDS = {"fault", "problem"}
_FAULTS_IF_FALSE = {"passed", "ok", "may_vote", "agrees_with_aliases"}
_MAXIMUM_COLUMNS = 8


def print_summary(value: Any, columns: Sequence[str] = ()) -> None:
    """Print `value` on stdout. `columns` are the fields to show, for records that have all of them."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    for part in _parts(value, columns):
        console.print(part)


def print_rows(rows: Sequence[Record]) -> None:
    """Print records with the same fields as one table on stdout, whatever the cells contain."""
    Console(file=sys.stdout, highlight=False, soft_wrap=False).print(_table(list(rows), list(rows[0]) if rows else []))


def _parts(value: Any, columns: Sequence[str]) -> list[RenderableType]:
    if isinstance(value, dict):
        return _record_parts(value, columns)
    if _is_records(value):
        return _records_parts(value, columns)
    return [_cell("", value)]


def _record_parts(record: Record, columns: Sequence[str]) -> list[RenderableType]:
    """Return the fields as a grid, then a titled table for each field that contains records."""
    shown = _shown(record)
    single = {key: value for key, value in shown.items() if not _is_records(value)}
    parts: list[RenderableType] = [_grid(single)] if single else []
    for key, value in shown.items():
        if _is_records(value):
            parts.extend([Text("")] if parts else [])
            parts.append(Text(_label(key).capitalize(), style="bold"))
            parts.extend(Padding(part, (0, 0, 0, 2)) for part in _records_parts(value, columns))
    return parts


def _records_parts(records: list[Record], columns: Sequence[str]) -> list[RenderableType]:
    """Return one table if the fields fit into one, otherwise a summary of each record."""
    fields = [c for c in columns if all(c in record for record in records)]
    if len(fields) < len(columns) or not fields:
        fields = _cell_fields(records)
        if len(fields) > _MAXIMUM_COLUMNS or _holds_more(records):
            return [part for record in records for part in (*_record_parts(record, columns), Text(""))][:-1]
    return [_table(records, fields)]


def _table(records: list[Record], fields: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for field in fields:
        numbers = all(_is_number(record[field]) for record in records)
        table.add_column(_label(field), overflow="fold", justify="right" if numbers else "left")
    for record in records:
        table.add_row(*(_cell(field, record[field]) for field in fields))
    return table


def _grid(record: Record) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in _shown(record).items():
        grid.add_row(_label(key), _grid(value) if isinstance(value, dict) and value else _cell(key, value))
    return grid


def _cell(key: str, value: Any) -> Text:
    """Format a value in one cell: a digest by its first 12 digits, one text a line, numbers on one line."""
    if isinstance(value, list):
        return (
            Text(", " if all(_is_number(item) for item in value) else "\n").join(_cell(key, item) for item in value)
            if value
            else Text("none", style="dim")
        )
    if value is None or value == "" or value == {}:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no", style="bold red" if not value and key in _FAULTS_IF_FALSE else "")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, dict):
        return Text(", ".join(f"{_label(k)} {_cell(k, v).plain}" for k, v in value.items()))
    text = str(value)
    if text in _FAULT_WORDS:
        return Text(text, style="bold red")
    if _DIGEST.fullmatch(text):
        return Text(text[:12])
    return Text(text, style=f"link {text}" if _ADDRESS.match(text) else "")


def _cell_fields(records: list[Record]) -> list[str]:
    """Return the fields that every record has, that fit into a cell, are not addresses and are not always empty."""
    return [
        key
        for key in records[0]
        if key not in _HIDDEN
        and not key.endswith("_uri")
        and all(key in record and not _is_nested(record[key]) for record in records)
        and any(record[key] not in (None, "", []) for record in records)
    ]


def _holds_more(records: list[Record]) -> bool:
    return any(_is_nested(value) for record in records for value in record.values())


def _is_nested(value: Any) -> bool:
    return _is_records(value) or (isinstance(value, dict) and bool(value))


def _shown(record: Record) -> Record:
    return {key: value for key, value in record.items() if key not in _HIDDEN}


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _label(key: str) -> str:
    return key.removeprefix("num_").replace("_", " ")
