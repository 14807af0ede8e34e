"""open-image-preferences (binarized): structs of a chosen and a rejected image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., list[dict[str, Any]]]


def test_structs_of_chosen_and_rejected(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    row = {
        "prompt": "a fox",
        "chosen": {"bytes": tiny_image(0), "path": None},
        "rejected": {"bytes": tiny_image(1), "path": None},
        "chosen_model": "dev",
        "rejected_model": "sd",
    }
    rows = [row, {**row, "rejected": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    first, second = read("open_image_preferences", tmp_path)
    assert (first["image_0"], first["image_1"], first["preference"]) == (tiny_image(0), tiny_image(1), 1.0)
    assert (first["generator_0"], first["generator_1"], first["num_votes"]) == ("dev", "sd", 1)
    assert second["image_1"] is None


def test_a_table_of_votes_is_of_another_kind(read: Read, tmp_path: Path) -> None:
    columns = {name: ["x"] for name in ("prompt", "image1", "image2", "votes_image1", "votes_image2")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"no column 'chosen'; no column 'rejected'.* Kinds that fit: rapidata\."):
        read("open_image_preferences", tmp_path)
