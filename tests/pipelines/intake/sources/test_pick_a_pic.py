import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contracts.pairs import SourceFacts
from pipelines.intake.sources import pick_a_pic
from pipelines.intake.sources.interface import SOURCE_SCHEMA
from pipelines.intake.sources.pick_a_pic import PickAPicSource, _preference_from_labels
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.store.storage import open_store

SOURCE = PickAPicSource()
Make = Callable[..., Any]


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


def test_a_shard_is_read_a_few_rows_at_a_time_in_order(tiny_pairs: Make, tiny_row: Make) -> None:
    rows = [tiny_row(number, caption_0=f"left {number}", caption_1=None) for number in range(7)]
    batches = list(SOURCE.read_shard(tiny_pairs(rows), "part", 3))

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
    (batch,) = SOURCE.read_shard(path, "part", 10)
    assert batch.column("preference").to_pylist() == [1.0]
    assert batch.column("caption_0").to_pylist() == [None]


def read_all(path: Path) -> None:
    for _ in SOURCE.read_shard(path, "deep/part-7.parquet", 4):
        pass


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"deep/part-7\.parquet cannot be read.*fetch it again"):
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
    with pytest.raises(ValueError, match=r"deep/part-7\.parquet is not a Pick-a-Pic v2 shard") as error:
        read_all(path)
    assert "Unknown column 'caption'. Did you mean 'captoin'?" in str(error.value)
    assert "column 'jpg_0' holds string, expected binary." in str(error.value)
    assert "All expected columns: caption (string), jpg_0 (binary)" in str(error.value)


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
    with pytest.raises(ValueError, match="is not a Pick-a-Pic v2 shard: Unknown column 'jpg_1'"):
        SOURCE.inspect(source, store)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        SOURCE.inspect(source, store)
