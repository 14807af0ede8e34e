"""Records of every format, and the columns that a file has."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake.sources.reading.records import read_records, record_columns, record_facts
from pipelines.settings import Settings
from pipelines.store.storage import open_store

ROWS: list[dict[str, Any]] = [{"a": "x", "b": "1"}, {"a": "y", "b": None}, {"a": "z, é", "b": "3"}]


def write(path: Path, suffix: str) -> Path:
    file = path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif suffix == ".json":
        file.write_text(json.dumps({"records": ROWS}), encoding="utf-8-sig")
    elif suffix == ".jsonl":
        file.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [mark.join((f'"{row["a"]}"', row["b"] or "")) for row in ROWS]
        file.write_text("\n".join([mark.join(("a", "b")), *lines]), encoding="utf-8-sig")
    return file


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv", ".tsv"])
def test_every_format_gives_the_same_records(suffix: str, tmp_path: Path, settings: Settings) -> None:
    file = write(tmp_path, suffix)
    assert list(read_records(file, file.name, 2)) == ROWS
    assert record_columns(file, file.name) == ["a", "b"]
    assert record_facts(file.as_uri(), open_store(settings.store_uri)) == (["a", "b"], 3)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_file_that_is_cut_off_is_named(suffix: str, tmp_path: Path) -> None:
    file = write(tmp_path, suffix)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"rows\{suffix} cannot be read as {suffix[1:]}.*fetch it again"):
        list(read_records(file, file.name, 2))


def test_a_time_that_python_cannot_hold_is_none(tmp_path: Path) -> None:
    times = pa.array([0, 2**62], pa.timestamp("ms"))
    pq.write_table(pa.table({"t": times, "n": pa.array([[1], None])}), tmp_path / "t.parquet")
    found = list(read_records(tmp_path / "t.parquet", "t.parquet", 2))
    assert [row["n"] for row in found] == [[1], None]
    assert found[1]["t"] is None
