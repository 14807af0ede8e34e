"""Likes and dislikes of single images: parquet, CSV and JSON Lines, with the usual columns or a map."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.intake.ingestion import recognise
from pipelines.intake.sources.likes import LikesSource
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store

Read = Callable[..., list[dict[str, Any]]]
Picture = Callable[..., bytes]
MAP = {"prompt": "text", "image": "file", "liked": "thumb", "annotator": "who", "generator_0": "model"}


def test_a_csv_with_a_map_of_columns(read: Read, picture: Picture, tmp_path: Path) -> None:
    one = picture("t/img/a.png", 0)
    lines = ["text,file,thumb,who,model", "a fox,img/a.png,up,12,m1", "an owl,img/a.png,Disliked,12,", "x,,maybe,,"]
    (tmp_path / "t/likes.csv").write_text("\n".join([*lines, "a bee,../a.png,,13,m2"]))
    found = read("likes", tmp_path / "t/likes.csv", columns=MAP)
    assert {one["kind"] for one in found} == {"unpaired"}
    assert [one["preference"] for one in found[:2]] == [1.0, 0.0]
    assert math.isnan(found[2]["preference"])
    assert [one["has_label"] for one in found] == [True, True, True, False]
    assert [one["image_0"] for one in found] == [one, one, None, None]
    assert [(one["user_id"], one["generator_0"]) for one in found] == [
        ("12", "m1"), ("12", None), (None, None), ("13", "m2")
    ]  # fmt: skip
    assert [one["source_row"] for one in found] == [0, 1, 2, 3]
    assert not any(one[f"{name}_1"] for one in found for name in ("image", "caption", "generator"))


def test_the_usual_columns_need_no_map_and_only_three_must_exist(
    read: Read, tiny_image: Callable[..., bytes], tmp_path: Path, settings: Settings
) -> None:
    rows = [{"prompt": "x", "image": {"bytes": tiny_image(n), "path": "a"}, "liked": n == 0} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "likes.parquet")
    found = read("likes", tmp_path)
    assert [(one["image_0"], one["preference"]) for one in found] == [(tiny_image(0), 1.0), (tiny_image(1), 0.0)]
    kind, facts = recognise(str(tmp_path), open_store(settings.store_uri))
    assert (kind, facts.is_unpaired, facts.num_rows) == ("likes", True, 2)
    lines = [{**{"prompt": "x", "image": "none.png", "liked": 1}, "annotator": 7, "created_at": "2026-01-02T03:04:05Z"}]
    (tmp_path / "likes.parquet").unlink()
    (tmp_path / "likes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (row,) = read("likes", tmp_path)
    assert (row["user_id"], row["created_at"].year) == ("7", 2026)


def test_missing_columns_are_named_with_those_that_are_there(read: Read, tmp_path: Path) -> None:
    (tmp_path / "likes.csv").write_text("prompt,image,like\nx,a.png,1\n")
    complaint = (
        r"likes\.csv is not a table of likes and dislikes: no column 'liked' \(did you mean 'like'\?\)\. Its columns:"
        r" prompt, image, like\."
    )
    with pytest.raises(ValueError, match=complaint):
        read("likes", tmp_path)
    with pytest.raises(
        ValueError, match=r"no column 'text'; no column 'file'.*; no column 'thumb'.*`likes` if a row has one"
    ):
        read("likes", tmp_path, columns=MAP)


@pytest.mark.parametrize(
    ("kind", "columns", "complaint"),
    [
        ("table", {"image": "a", "liked": "b"}, r"'table' has two images a row, but its \[sources.columns\] name one"),
        (
            "likes",
            {"chosen": "a", "rejected": "b"},
            r"'likes' has one image a row, but its \[sources.columns\] name two",
        ),
        ("likes", {"image": "a"}, "for a source of kind likes, `image` and `liked` alone"),
        ("likes", {"image": "a", "liked": "b", "preference": "c"}, "`image` and `liked` alone"),
        ("likes", {"image": "a", "liked": "b", "image_0": "c", "image_1": "d"}, "`image` and `liked` alone"),
    ],
)
def test_columns_of_the_other_sort_are_refused(kind: str, columns: dict[str, str], complaint: str) -> None:
    fields = {"name": "s", "kind": kind, "uri": "x", "licence": "y", "columns": columns}
    with pytest.raises(ValueError, match=complaint):
        SourceSection.model_validate(fields)


def test_pairs_of_a_table_are_rows_of_one_image(tmp_path: Path) -> None:
    source = SourceSection(name="s", kind="likes", uri=str(tmp_path), licence="x")
    (pair,) = LikesSource().pairs({"prompt": "x", "image": b"1", "liked": "no"}, source)
    assert (pair.prompt, pair.image_0, pair.image_1, pair.vote) == ("x", b"1", None, (0.0, 1))
