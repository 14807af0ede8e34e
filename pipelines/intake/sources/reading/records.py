"""Read a table as records, one dict a row: parquet, CSV, JSON Lines, or JSON with a list of objects.

A line or a value that cannot be read is a record or a field without a value: its row goes to quarantine later, and the
other rows of the file are read.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake.sources.reading.layouts import HEAD_BYTES, readable, unreadable
from pipelines.intake.sources.reading.texts import batch_rows
from pipelines.store.range_file import RangeFile
from pipelines.store.storage import Store

Record = dict[str, Any]
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
LINES = (".jsonl", ".ndjson")
_READ_BUFFER_BYTES = 1024 * 1024
_INSPECTED_RECORDS = 100


def read_records(path: Path, name: str, rows: int) -> Iterator[Record]:
    """Yield the records of a file in order; the format is that of the suffix of `name`.

    Only JSON is held in memory as a whole. ValueError when the file cannot be read to its end.
    """
    suffix = _suffix(name)
    with readable(path, name, suffix[1:]):
        if suffix == ".parquet":
            yield from _parquet(path, rows)
        elif suffix in LINES:
            yield from _lines(path)
        elif suffix == ".json":
            yield from _json(path, name)
        else:
            yield from _csv(path, "\t" if suffix == ".tsv" else ",")


def record_columns(path: Path, name: str) -> list[str]:
    """Return the columns of a file: those of its schema or header, or of the first records of JSON."""
    if _suffix(name) == ".parquet":
        with readable(path, name, "parquet"):
            return list(pq.read_schema(path).names)
    found: dict[str, None] = {}
    for record in islice(read_records(path, name, 1), _INSPECTED_RECORDS):
        found |= dict.fromkeys(record)
    return list(found)


def record_facts(uri: str, store: Store) -> tuple[list[str], int]:
    """Return columns and number of records of a file of the store; of parquet only the index is fetched."""
    if _suffix(uri) == ".parquet":
        return _parquet_facts(uri, store)
    with tempfile.TemporaryDirectory() as scratch:
        path = store.local_path(uri, Path(scratch))
        return record_columns(path, uri), sum(1 for _ in read_records(path, uri, 1))


def _parquet_facts(uri: str, store: Store) -> tuple[list[str], int]:
    """Return columns and number of rows of a parquet file where it is; ValueError when it cannot be read."""
    try:
        with open_in_place(uri, store) as opened, pq.ParquetFile(opened) as file:
            return list(file.schema_arrow.names), int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(store.read_range(uri, 0, HEAD_BYTES)[0], uri, "parquet", error) from error


def open_in_place(uri: str, store: Store) -> pa.NativeFile:
    """Open a file where it is, so that only the parts that are read are fetched."""
    if uri.startswith("s3://"):
        return pa.PythonFile(RangeFile(store, uri), mode="r")
    return pa.OSFile(str(store.local_path(uri, Path())))


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}"


def _parquet(path: Path, rows: int) -> Iterator[Record]:
    with pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file:
        for batch in file.iter_batches(rows, use_threads=False):
            yield from batch_rows(batch)


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield _object(line)


def _object(text: bytes) -> Record:
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _json(path: Path, name: str) -> Iterator[Record]:
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise pa.ArrowInvalid(str(error)) from error
    items: Any = value.get("records", value.get("data", ())) if isinstance(value, dict) else value
    if not isinstance(items, list) or not any(isinstance(item, dict) for item in items):
        raise ValueError(f"{name} is JSON, but not a list of objects. Write one object for each row, in a list.")
    for item in items:
        yield item if isinstance(item, dict) else {}


def _csv(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        try:
            for row in csv.DictReader(stream, delimiter=delimiter, restkey="", restval=None):
                record = {key: _clean(value) for key, value in row.items() if key}
                yield {} if row.get("") else record
        except csv.Error as error:
            raise pa.ArrowInvalid(str(error)) from error


def _clean(value: Any) -> str | None:
    """Return the text of a cell; None for bytes that are not UTF-8, and for an empty cell."""
    if not isinstance(value, str) or not value:
        return None
    return None if any("\udc80" <= character <= "\udcff" for character in value) else value
