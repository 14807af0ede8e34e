"""Rapidata's sets: counts of votes, or shares weighted by the reliability of each person."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., list[dict[str, Any]]]


def write(path: Path, rows: list[dict[str, Any]], tiny_image: Callable[..., bytes]) -> None:
    images = {f"image{n}": {"bytes": tiny_image(n), "path": f"{n}.jpg"} for n in (1, 2)}
    fixed = {"prompt": "a fox", "model1": "flux", "model2": "dalle", **images}
    pq.write_table(pa.Table.from_pylist([{**fixed, **row} for row in rows]), path)


def test_counts_of_votes_become_a_share(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    counts = [(20, 6), (0, 26), (13, 13), (0, 0), (-1, 27)]
    write(tmp_path / "a.parquet", [{"votes_image1": a, "votes_image2": b} for a, b in counts], tiny_image)
    found = read("rapidata", tmp_path)
    assert [one["label_0"] for one in found] == [pytest.approx(20 / 26), 0.0, 0.5, None, None]
    assert [one["num_votes"] for one in found] == [26, 26, 26, None, None]
    assert all(one["label_0"] is None or one["label_0"] + one["label_1"] == pytest.approx(1) for one in found)
    assert (found[0]["image_0"], found[0]["generator_1"]) == (tiny_image(1), "dalle")


def test_weighted_shares_count_the_people_behind_them(
    read: Read, tiny_image: Callable[..., bytes], tmp_path: Path
) -> None:
    names = ("weighted_results_image1_preference", "weighted_results_image2_preference")
    answers = json.dumps([{"vote": 1}] * 12)
    weighted = [(0.75, 0.25), (3.0, 1.0), (1.5, -0.5)]
    rows = [{**dict(zip(names, pair, strict=True)), "detailed_results": answers} for pair in weighted]
    write(tmp_path / "a.parquet", rows, tiny_image)
    found = read("rapidata", tmp_path)
    assert [one["label_0"] for one in found] == [0.75, 0.75, None]
    assert [one["num_votes"] for one in found] == [12, 12, None]


def test_a_set_without_votes_is_named(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"votes": 1}], tiny_image)
    with pytest.raises(ValueError, match=r"is not a preference set of Rapidata: no column 'weighted_results_image1"):
        read("rapidata", tmp_path)
