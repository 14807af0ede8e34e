"""A local folder of a data set, streamed through the library datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake.sources.huggingface import HuggingfaceSource
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store

pytestmark = pytest.mark.timeout(180)
Read = Callable[..., list[dict[str, Any]]]


def write(folder: Path, split: str, rows: list[dict[str, Any]], part: int = 0, parts: int = 1) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"data/{split}-{part:05d}-of-{parts:05d}.parquet")


def votes(tiny_image: Callable[..., bytes], first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            **{"prompt": f"prompt {n}", "votes_image1": n, "votes_image2": 3},
            **{f"image{side}": {"bytes": tiny_image(2 * n + side), "path": f"{n}.png"} for side in (1, 2)},
        }
        for n in range(first, first + count)
    ]


def test_the_files_of_a_split_are_streamed_in_the_layout_of_their_columns(
    read: Read, tiny_image: Callable[..., bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    write(folder, "train", votes(tiny_image, 0, 5), 0, 2)
    write(folder, "train", votes(tiny_image, 5, 2), 1, 2)
    write(folder, "test", votes(tiny_image, 9, 1))
    found = read("huggingface", folder, split="train")
    assert [row["prompt"] for row in found] == [f"prompt {n}" for n in range(7)]
    assert [row["source_row"] for row in found] == [0, 1, 2, 3, 4, 0, 1]
    assert (found[1]["label_0"], found[1]["num_votes"], found[1]["image_0"]) == (0.25, 4, tiny_image(3))
    with pytest.raises(ValueError, match=r"has several splits: test, train\. Name one"):
        read("huggingface", folder)
    with pytest.raises(ValueError, match=r"has no split 'dev'\. Its data set has: test, train\."):
        read("huggingface", folder, split="dev")


def test_the_layout_of_pick_a_pic_and_a_map_of_columns(
    read: Read, tiny_row: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write(tmp_path / "a", "train", [tiny_row(n) for n in range(4)])
    found = read("huggingface", tmp_path / "a")
    assert [row["preference"] for row in found] == [0.0, 1.0, 0.0, 1.0]
    assert "num_votes" not in found[0]
    row = tiny_row(1)
    write(tmp_path / "b", "train", [{"text": "x", "good": row["jpg_0"], "bad": "../a/secret.png"}])
    columns = {"prompt": "text", "chosen": "good", "rejected": "bad"}
    (one,) = read("huggingface", tmp_path / "b", columns=columns)
    assert (one["image_0"], one["image_1"], one["label_0"]) == (row["jpg_0"], None, 1.0)


def test_a_changed_folder_is_another_version(
    tiny_image: Callable[..., bytes], tmp_path: Path, settings: Settings
) -> None:
    source = SourceSection(name="s", kind="huggingface", uri=str(tmp_path / "set"), licence="x")
    store, versions = open_store(settings.store_uri), []
    for count in (1, 2, 2):
        write(tmp_path / "set", "train", votes(tiny_image, 0, count))
        (shard,) = HuggingfaceSource().list_shards(source, store)
        versions.append(shard.fingerprint)
    assert versions[0] != versions[1] == versions[2]


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("hub://owner/name@main", r"is not a pinned data set\. Write hub://OWNER/NAME@REVISION"),
        ("s3://bucket/set", "is not a pinned data set"),
        ("/nowhere/set", r"folder /nowhere/set does not exist"),
    ],
)
def test_a_place_that_cannot_be_read_is_named(uri: str, complaint: str, read: Read) -> None:
    with pytest.raises(ValueError, match=complaint):
        read("huggingface", uri)


def test_unknown_columns_and_broken_files_are_named(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "a", "train", [{"x": 1}])
    with pytest.raises(ValueError, match=r"is not of a known layout: name its columns\. Its columns: x\."):
        read("huggingface", tmp_path / "a")
    with pytest.raises(ValueError, match=r"is not the table of \[sources.columns\]: no column 'good'"):
        read("huggingface", tmp_path / "a", columns={"prompt": "x", "chosen": "good", "rejected": "x"})
    (tmp_path / "b/data").mkdir(parents=True)
    (tmp_path / "b/data/train-0.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(ValueError, match="cannot be read: "):
        read("huggingface", tmp_path / "b")


def test_likes_by_their_columns_and_by_a_map(
    read: Read, tiny_image: Callable[..., bytes], tmp_path: Path, settings: Settings
) -> None:
    write(tmp_path / "a", "train", [{"prompt": "x", "image": {"bytes": tiny_image(1), "path": "a"}, "liked": True}])
    (one,) = read("huggingface", tmp_path / "a")
    assert (one["kind"], one["image_0"], one["image_1"], one["preference"]) == ("unpaired", tiny_image(1), None, 1.0)
    write(tmp_path / "b", "train", [{"text": "x", "picture": tiny_image(2), "thumb": "down"}])
    columns = {"prompt": "text", "image": "picture", "liked": "thumb"}
    (one,) = read("huggingface", tmp_path / "b", columns=columns)
    assert (one["kind"], one["image_0"], one["preference"]) == ("unpaired", tiny_image(2), 0.0)
    source = SourceSection(name="s", kind="huggingface", uri=str(tmp_path / "a"), licence="x")
    assert HuggingfaceSource().inspect(source, open_store(settings.store_uri)).is_unpaired
