"""ImageRewardDB: rankings of the images of a prompt, in rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., list[dict[str, Any]]]


def test_rows_of_one_prompt_become_the_pairs_of_a_ranking(
    read: Read, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    images = [picture(f"db/images/{n}.webp", n) for n in range(4)]
    rows = [
        {"prompt_id": "p", "prompt": "a fox", "rank": rank, "image_path": f"images/{n}.webp"}
        for n, rank in enumerate([2, 1, 2])
    ]
    rows.append({"prompt_id": "q", "prompt": "an owl", "rank": 1, "image_path": "images/3.webp"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "db/metadata-train.parquet")
    found = read("image_reward_db", tmp_path / "db")
    assert [(one["image_0"], one["preference"]) for one in found[:3]] == [
        (images[0], 0.0),
        (images[0], 0.5),
        (images[1], 1.0),
    ]
    assert [one["prompt"] for one in found] == ["a fox"] * 3 + ["an owl"]
    assert (found[3]["image_0"], found[3]["image_1"]) == (images[3], None), "a single image is not lost"
    assert [one["source_row"] for one in found] == [0, 0, 0, 3]


def test_rows_of_pairs_are_read_as_they_are(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    struct = {"bytes": tiny_image(1), "path": "x.png"}
    row = {"prompt": "a fox", "img_better": struct, "img_worse": {**struct, "bytes": tiny_image(2)}}
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "pairs.parquet")
    found = read("image_reward_db", tmp_path)
    assert [(one["image_0"], one["image_1"], one["preference"]) for one in found] == [
        (tiny_image(1), tiny_image(2), 1.0)
    ] * 2


def test_a_table_without_ranks_is_named(read: Read, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt_id": ["p"], "prompt": ["x"], "rnak": [1], "image_path": ["a"]}), tmp_path / "t.parquet"
    )
    with pytest.raises(ValueError, match=r"is not a table of ImageRewardDB: no column 'rank' \(did you mean 'rnak'"):
        read("image_reward_db", tmp_path)
