"""GenAI-Arena: left and right image and one vote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., list[dict[str, Any]]]


def test_votes_left_right_tie_and_both_bad(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    row = {"prompt": "a fox", "left_model": "a", "right_model": "b"}
    row |= {f"{side}_image": {"bytes": tiny_image(n), "path": None} for n, side in enumerate(("left", "right"))}
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote", "middlevote", None]
    pq.write_table(pa.Table.from_pylist([{**row, "vote_type": vote} for vote in votes]), tmp_path / "test-0.parquet")
    found = read("arena", tmp_path)
    assert [one["label_0"] for one in found] == [1.0, 0.0, 0.5, 0.5, None, None]
    assert [one["has_label"] for one in found] == [True, True, True, True, True, False]
    assert (found[0]["image_1"], found[0]["generator_0"]) == (tiny_image(1), "a")


def test_a_table_without_a_vote_is_named(read: Read, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt": ["x"], "left_image": ["a"], "right_image": ["b"], "vote": ["left"]}), tmp_path / "a.parquet"
    )
    with pytest.raises(
        ValueError, match=r"no column 'vote_type' \(did you mean 'vote'\?\)\. Its columns: prompt, left"
    ):
        read("arena", tmp_path)
