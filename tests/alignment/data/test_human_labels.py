"""Rows as votes: the item does not depend on the label, sides are in order of digests, images load on demand."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.data.human_labels import read_ballots, read_items
from alignment.files.images import ground_metadata


def write(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def row(
    chosen: bytes, rejected: bytes, *, prompt: str = "p", who: str | None = "ann", tie: bool = False
) -> dict[str, Any]:
    return {
        "pair_id": f"{prompt}-{who}",
        "prompt": prompt,
        "image_chosen": chosen,
        "image_rejected": rejected,
        "is_tie": tie,
        "annotator_id": who,
        "source": "people",
    }


def test_opposite_verdicts_are_votes_on_one_item(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [row(b"x", b"y"), row(b"y", b"x", who=None), row(b"x", b"y", who="c", tie=True)])
    one, other, tie = read_ballots(folder, "train")
    assert one.item == other.item == tie.item
    x_is_first = hashlib.sha256(b"x").hexdigest() < hashlib.sha256(b"y").hexdigest()
    sign = 1 if x_is_first else -1
    assert [ballot.preference for ballot in (one, other, tie)] == [sign, -sign, 0]
    assert other.annotator_id == ""


def test_another_prompt_is_another_item(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [row(b"x", b"y"), row(b"x", b"y", prompt="q")])
    assert len({ballot.item for ballot in read_ballots(folder, "train")}) == 2


def test_each_item_is_read_once_with_its_sides_in_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [row(b"x", b"y"), row(b"y", b"x", who="b"), row(b"u", b"v", prompt="q")])
    write(folder, [row(b"m", b"n", prompt="r")], "test")
    wanted = {b.item for split in ("train", "test") for b in read_ballots(folder, split)}  # type: ignore[arg-type]
    found = list(read_items(folder, ("train", "test"), wanted))
    assert [item.prompt for item in found] == ["p", "q", "r"]
    for item in found:
        assert hashlib.sha256(item.first).hexdigest() < hashlib.sha256(item.second).hexdigest()
    assert {found[0].first, found[0].second} == {b"x", b"y"}
    assert [item.prompt for item in read_items(folder, ("train", "test"), {found[2].item})] == ["r"]


def test_missing_file_and_column_are_named(tmp_path: Path) -> None:
    lacking = [{name: value for name, value in row(b"x", b"y").items() if name != "source"}]
    folder = write(tmp_path / "s", lacking)
    with pytest.raises(ValueError, match=r"lacks the column\(s\) source"):
        read_ballots(folder, "train")
    with pytest.raises(ValueError, match=r"lacks test\.parquet"):
        read_ballots(folder, "test")


def test_an_item_has_the_ground_of_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [row(b"x", b"y")])
    (ballot,) = read_ballots(folder, "train")
    assert [item.ground for item in read_items(folder, ("train",), {ballot.item})] == [(255, 255, 255)]
    table = pq.read_table(folder / "train.parquet").replace_schema_metadata(ground_metadata((1, 2, 3)))
    pq.write_table(table, folder / "train.parquet")
    assert [item.ground for item in read_items(folder, ("train",), {ballot.item})] == [(1, 2, 3)]
