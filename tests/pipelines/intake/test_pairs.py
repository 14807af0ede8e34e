from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake import pairs
from pipelines.intake.pairs import (
    PAIRS_SCHEMA,
    PairWriter,
    is_unpaired,
    pair_id,
    pairs_schema,
    quarantine_schema,
    read_batches,
    read_light,
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


def test_rows_become_groups_by_their_number_and_by_the_bytes_of_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "ROWS_TOGETHER", 4)
    monkeypatch.setattr(pairs, "BYTES_TOGETHER", 1000)
    schema = pa.schema([("pair_id", pa.string()), ("image_chosen", pa.binary()), ("image_rejected", pa.binary())])
    sizes = [1, 1, 1, 1, 1, 600, 600, 2000, 1]
    rows = [
        {"pair_id": str(number), "image_chosen": b"x" * size, "image_rejected": None}
        for number, size in enumerate(sizes)
    ]
    with PairWriter(tmp_path / "t.parquet", schema) as writer:
        for row in rows:
            writer.add(row)
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 3, 1, 1]
    assert pa.Table.from_batches(read_batches(tmp_path / "t.parquet")).to_pylist() == rows


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read"):
        list(read_batches(tmp_path / "t.parquet"))


def test_the_identity_of_a_single_image_is_its_image_prompt_and_annotator() -> None:
    one = pair_id("a" * 64, None, prompt="p", annotator_id="x")
    others = [
        pair_id("b" * 64, None, prompt="p", annotator_id="x"),
        pair_id("a" * 64, None, prompt="q", annotator_id="x"),
        pair_id("a" * 64, None, prompt="p", annotator_id="y"),
        pair_id("a" * 64, "a" * 64, prompt="p", annotator_id="x"),
    ]
    assert len({one, *others}) == 5


def test_votes_and_kind_are_columns_only_where_the_source_has_them() -> None:
    assert pairs_schema(PAIRS_SCHEMA.names) == PAIRS_SCHEMA
    for names, more in ((["num_votes"], ["num_votes", "weight"]), (["kind"], ["kind"])):
        assert pairs_schema(names).names == [*PAIRS_SCHEMA.names, *more]
        assert {*quarantine_schema(names).names} == {*PAIRS_SCHEMA.names, "reasons", *more}
        assert is_unpaired(names) == (names == ["kind"])
