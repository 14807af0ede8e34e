from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake import pairs as pairs_module
from pipelines.intake.pairs import (
    ROWS_AT_ONCE,
    ROWS_TOGETHER,
    PairWriter,
    pair_id,
    read_batches,
    read_light,
    rows_to_read,
)


def test_a_pairs_identity_ignores_image_order_only() -> None:
    one = pair_id("a" * 64, "b" * 64, prompt="p", annotator_id="x")
    assert one == pair_id("b" * 64, "a" * 64, prompt="p", annotator_id="x")
    others = [
        pair_id("a" * 64, "c" * 64, prompt="p", annotator_id="x"),
        pair_id("a" * 64, "b" * 64, prompt="q", annotator_id="x"),
        pair_id("a" * 64, "b" * 64, prompt="p", annotator_id="y"),
    ]
    assert len({one, *others}) == 4


def test_the_same_rows_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    table = pa.table({"pair_id": ["1", "2", "3"], "image_0": [b"x" * 100, None, b"y"]})
    for name in ("a", "b"):
        with PairWriter(tmp_path / name, table.schema) as writer:
            writer.write(table.slice(0, 2))
            writer.write(table.slice(2))
            writer.write(table.slice(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pa.Table.from_batches(read_batches(tmp_path / "a")).to_pylist() == table.to_pylist()
    assert read_light(tmp_path / "a").column_names == ["pair_id"]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read"):
        list(read_batches(tmp_path / "t.parquet"))


def test_small_row_groups_are_read_many_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table({"jpg_0": [bytes([n] * 2_000) for n in range(100)]}), path, row_group_size=50)
    assert rows_to_read(path) == ROWS_TOGETHER
    monkeypatch.setattr(pairs_module, "SMALL_ROW_GROUP_BYTES", 50_000)
    assert rows_to_read(path) == ROWS_AT_ONCE
    monkeypatch.setattr(pairs_module, "BYTES_TOGETHER", 10 * 2_000)
    assert 8 <= rows_to_read(path) <= 10
    monkeypatch.setattr(pairs_module, "BYTES_TOGETHER", 10)
    assert rows_to_read(path) == 1
    path.write_bytes(b"prompt,image")
    assert rows_to_read(path) == ROWS_AT_ONCE
    assert rows_to_read(tmp_path / "absent") == ROWS_AT_ONCE
