import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources import pick_a_pic
from pipelines.intake.sources.columns import SOURCE_SCHEMA
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.pick_a_pic import PickAPicSource, _preference_from_labels
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store

SOURCE = PickAPicSource()
Make = Callable[..., Any]


def open_shard(path: Path, name: str) -> OpenShard:
    source = SourceSection(name="tiny_pairs", kind="pick_a_pic", uri=str(path.parent), licence="CC0-1.0")
    shard = SourceShard(source=source.name, uri=path.as_uri(), num_bytes=0, fingerprint="")
    return OpenShard(shard, name, source, open_store(str(path.parent)), path.parent)


@pytest.mark.parametrize(
    ("labels", "preference"), [((1.0, 0.0), 1.0), ((0.0, 1.0), 0.0), ((0.5, 0.5), 0.5), ((1, 0), 1.0)]
)
def test_legal_labels_give_the_preference_for_image_0(labels: tuple[float, float], preference: float) -> None:
    assert _preference_from_labels(*labels) == preference


@pytest.mark.parametrize("labels", [(1.0, 1.0), (0.0, 0.0), (0.5, 0.0), (2.0, -1.0), (math.nan, 1.0), (None, None)])
def test_illegal_labels_give_nan(labels: Any) -> None:
    assert math.isnan(_preference_from_labels(*labels))


def test_shards_are_listed_in_order_with_their_version(
    tiny_project: Project, tiny_pairs: Make, tiny_row: Make, settings: Settings
) -> None:
    tiny_pairs([tiny_row()], "b.parquet")
    tiny_pairs([tiny_row()], "deep/a.parquet")
    path = tiny_pairs([tiny_row()], "a.parquet")
    (path.parent / "README.md").write_text("not a shard")
    store = open_store(settings.store_uri)

    before = SOURCE.list_shards(tiny_project.sources[0], store)
    tiny_pairs([tiny_row(1)], "b.parquet")
    after = SOURCE.list_shards(tiny_project.sources[0], store)

    assert [shard.uri.split("/pairs/")[1] for shard in before] == ["a.parquet", "b.parquet", "deep/a.parquet"]
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert before[0].num_bytes == path.stat().st_size


def test_a_source_without_shards_is_named(tiny_project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"Source 'tiny_pairs': no \.parquet file under .*pairs"):
        SOURCE.list_shards(tiny_project.sources[0], open_store(settings.store_uri))


def test_a_shard_is_read_a_few_rows_at_a_time_in_order(
    tiny_pairs: Make, tiny_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pick_a_pic, "rows_to_read", lambda path: 3)
    rows = [tiny_row(number, caption_0=f"left {number}", caption_1=None) for number in range(7)]
    batches = list(SOURCE.read_shard(open_shard(tiny_pairs(rows), "part"), 3))

    assert [batch.num_rows for batch in batches] == [3, 3, 1]
    assert batches[0].schema == SOURCE_SCHEMA
    read = [row for batch in batches for row in batch.to_pylist()]
    assert [row["prompt"] for row in read] == [row["caption"] for row in rows]
    assert [row["image_1"] for row in read] == [row["jpg_1"] for row in rows]
    assert [row["preference"] for row in read] == [row["label_0"] for row in rows]
    assert [row["user_id"] for row in read] == [str(row["user_id"]) for row in rows]
    assert read[3]["caption_0"] == "left 3"
    assert read[3]["caption_1"] is None
    assert read[0]["created_at"].isoformat() == "2024-01-02T03:04:05+00:00"


def test_integer_labels_and_absent_captions_are_accepted(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row(1)])
    table = pq.read_table(path)
    for name in ("label_0", "label_1"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    pq.write_table(table, path)
    (batch,) = SOURCE.read_shard(open_shard(path, "part"), 10)
    assert batch.column("preference").to_pylist() == [1.0]
    assert batch.column("caption_0").to_pylist() == [None]


def read_all(path: Path) -> None:
    for _ in SOURCE.read_shard(open_shard(path, "deep/part-7.parquet"), 4):
        pass


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.parquet does not exist"):
        read_all(tmp_path / "none.parquet")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_shard_is_named(tiny_pairs: Make, tiny_row: Make, share: float) -> None:
    path = tiny_pairs([tiny_row(number) for number in range(8)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"deep/part-7\.parquet cannot be read"):
        read_all(path)


def test_a_shard_damaged_in_the_middle_is_named(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row(number) for number in range(8)])
    data = bytearray(path.read_bytes())
    data[100 : len(data) - 6000] = bytes(len(data) - 6100)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"deep/part-7\.parquet cannot be read"):
        read_all(path)


def test_every_wrong_column_is_named_with_the_nearest(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row()])
    table = pq.read_table(path)
    names = ["captoin" if name == "caption" else name for name in table.column_names]
    table = table.rename_columns(names)
    table = table.set_column(table.schema.get_field_index("jpg_0"), "jpg_0", pa.array(["http://image"]))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"deep/part-7\.parquet is not a Pick-a-Pic shard") as error:
        read_all(path)
    assert "no column 'caption' (string; did you mean 'captoin'?)" in str(error.value)
    assert "column 'jpg_0' holds string, expected binary." in str(error.value)
    assert str(error.value).count("Its columns: are_different, best_image_uid, captoin") == 1
    assert "No kind has these columns; `table` reads them" in str(error.value)


def test_a_column_that_is_there_twice_is_named(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row()])
    table = pq.read_table(path)
    pq.write_table(table.append_column("caption", table["caption"]), path)
    with pytest.raises(ValueError, match=r"column 'caption' is there 2 times"):
        read_all(path)


def as_structs(table: pa.Table) -> pa.Table:
    for name in ("jpg_0", "jpg_1"):
        column = table[name].combine_chunks()
        paths = pa.array(["a.jpg"] * len(column))
        struct = pa.StructArray.from_arrays([column, paths], names=["bytes", "path"])
        table = table.set_column(table.schema.get_field_index(name), name, struct)
    return table


def recast(table: pa.Table, **types: pa.DataType) -> pa.Table:
    for name, kind in types.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    return table


VARIANTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "structs": as_structs,
    "dictionaries": lambda table: recast(
        table,
        caption=pa.dictionary(pa.int32(), pa.string()),
        model_0=pa.dictionary(pa.int8(), pa.string()),
        jpg_0=pa.dictionary(pa.int32(), pa.binary()),
    ),
    "views": lambda table: recast(table, caption=pa.string_view(), model_1=pa.string_view(), jpg_1=pa.binary_view()),
    "large": lambda table: recast(table, caption=pa.large_string(), jpg_0=pa.large_binary(), label_0=pa.float32()),
    "user ids as numbers": lambda table: recast(table, user_id=pa.float64()),
    "user ids as text": lambda table: recast(table, user_id=pa.string()),
    "null urls": lambda table: recast(table, image_0_url=pa.string()),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_the_types_gives_the_same_rows(variant: str, tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row(n) for n in range(3)])
    expected = [batch.to_pylist() for batch in SOURCE.read_shard(open_shard(path, "part"), 2)]
    pq.write_table(VARIANTS[variant](pq.read_table(path)), path)
    assert [batch.to_pylist() for batch in SOURCE.read_shard(open_shard(path, "part"), 2)] == expected


def test_data_sets_without_annotators_votes_or_prompts(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([{**tiny_row(1), "caption_0": "left", "caption_1": "right"}])
    table = pq.read_table(path)
    style = table.select(["caption", "jpg_0", "jpg_1", "label_0", "label_1"])
    pq.write_table(recast(style, label_0=pa.int64(), label_1=pa.int64()), path)
    ((row,),) = (batch.to_pylist() for batch in SOURCE.read_shard(open_shard(path, "part"), 2))
    assert (row["has_label"], row["preference"], row["user_id"], row["created_at"]) == (True, 1.0, None, None)
    pq.write_table(table.select(["jpg_0", "jpg_1", "label_0", "caption_0", "caption_1"]), path)
    ((row,),) = (batch.to_pylist() for batch in SOURCE.read_shard(open_shard(path, "part"), 2))
    assert (row["prompt"], row["caption_0"], row["caption_1"]) == ("left", "left", "right")
    assert (row["label_0"], row["label_1"], row["preference"]) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("column", ["caption", "user_id", "model_0", "caption_1"])
def test_text_that_is_not_utf8_costs_its_row_alone(column: str, tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([{**tiny_row(n), "caption_0": f"l{n}", "caption_1": f"r{n}"} for n in range(3)])
    table = pq.read_table(path)
    raw = pa.array([b"fine", b"\xff\xfe", None], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, raw), path)
    rows = [row for batch in SOURCE.read_shard(open_shard(path, "part"), 2) for row in batch.to_pylist()]
    is_trained = column.startswith("caption")
    assert [row["prompt"] is None for row in rows] == [False, is_trained, column == "caption"]
    if column == "user_id":
        assert [row["user_id"] for row in rows] == ["fine", "\\xff\\xfe", None], "still a separate person"


def test_null_columns_are_read_as_nulls(tiny_pairs: Make, tiny_row: Make) -> None:
    path = tiny_pairs([tiny_row(n) for n in range(2)])
    table = pq.read_table(path)
    for name in ("caption", "jpg_0", "label_0", "label_1", "has_label", "user_id"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(2))
    pq.write_table(table, path)
    rows = [row for batch in SOURCE.read_shard(open_shard(path, "part"), 2) for row in batch.to_pylist()]
    assert [(row["prompt"], row["image_0"], row["has_label"], row["user_id"]) for row in rows] == [(None,) * 4] * 2
    assert all(math.isnan(row["preference"]) for row in rows)


def test_several_splits_are_never_mixed(
    tiny_project: Project, tiny_pairs: Make, tiny_row: Make, settings: Settings
) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test_unique-00000-of-00001.parquet"):
        tiny_pairs([tiny_row()], name)
    source, store = tiny_project.sources[0], open_store(settings.store_uri)
    with pytest.raises(ValueError, match=r"several splits: test_unique \(1 files\), train \(2 files\)\. Name one"):
        SOURCE.list_shards(source, store)
    chosen = source.model_copy(update={"split": "train"})
    assert len(SOURCE.list_shards(chosen, store)) == SOURCE.inspect(chosen, store).num_shards == 2
    with pytest.raises(ValueError, match=r"has no split 'dev'\. Its folder holds: test_unique"):
        SOURCE.list_shards(source.model_copy(update={"split": "dev"}), store)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><body>Files</body></html>", r"is a web page, not parquet\. .*/resolve/"),
    ],
)
def test_a_file_that_is_only_a_pointer_or_a_page_is_named(
    content: bytes, complaint: str, tiny_project: Project, tiny_pairs: Make, tiny_row: Make, settings: Settings
) -> None:
    path = tiny_pairs([tiny_row()])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_all(path)
    with pytest.raises(ValueError, match=complaint):
        SOURCE.inspect(tiny_project.sources[0], open_store(settings.store_uri))


def test_a_source_is_inspected_without_reading_its_pairs(
    tiny_project: Project, tiny_pairs: Make, tiny_row: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = tiny_project.sources[0], open_store(settings.store_uri)
    for number in range(4):
        tiny_pairs([tiny_row(n) for n in range(number + 1)], f"{number}.parquet")
    assert SOURCE.inspect(source, store) == SourceFacts(num_shards=4, num_rows=10)
    monkeypatch.setattr(pick_a_pic, "INSPECTED_SHARDS", 2)
    assert SOURCE.inspect(source, store) == SourceFacts(num_shards=4, num_rows=8, is_estimate=True), "1 and 3 of 4"


def test_the_inspection_names_what_is_wrong_with_a_shard(
    tiny_project: Project, tiny_pairs: Make, tiny_row: Make, settings: Settings
) -> None:
    source, store = tiny_project.sources[0], open_store(settings.store_uri)
    with pytest.raises(ValueError, match=r"Source 'tiny_pairs': no \.parquet file under"):
        SOURCE.inspect(source, store)
    row = tiny_row()
    path = tiny_pairs([{name: value for name, value in row.items() if name != "jpg_1"}])
    with pytest.raises(ValueError, match="is not a Pick-a-Pic shard: no column 'jpg_1'"):
        SOURCE.inspect(source, store)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        SOURCE.inspect(source, store)
