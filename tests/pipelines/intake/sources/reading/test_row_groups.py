from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake.sources.reading import row_groups
from pipelines.intake.sources.reading.row_groups import FEW_ROWS, MANY_ROWS, rows_to_read


def test_small_row_groups_are_read_many_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table({"jpg_0": [bytes([n] * 2_000) for n in range(100)]}), path, row_group_size=50)
    assert rows_to_read(path) == MANY_ROWS
    monkeypatch.setattr(row_groups, "SMALL_ROW_GROUP_BYTES", 50_000)
    assert rows_to_read(path) == FEW_ROWS
    monkeypatch.setattr(row_groups, "BYTES_AT_ONCE", 10 * 2_000)
    assert 8 <= rows_to_read(path) <= 10
    monkeypatch.setattr(row_groups, "BYTES_AT_ONCE", 10)
    assert rows_to_read(path) == 1
    path.write_bytes(b"prompt,image")
    assert rows_to_read(path) == FEW_ROWS
    assert rows_to_read(tmp_path / "absent") == FEW_ROWS
