"""Tables with a map of columns: parquet, CSV, JSON Lines, and images as bytes, structs, paths and data URIs."""

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

Read = Callable[..., list[dict[str, Any]]]
Picture = Callable[..., bytes]
IMAGES = {"prompt": "text", "image_0": "left", "image_1": "right"}
CHOICE = {**IMAGES, "choice": "winner", "choice_0": "A", "choice_1": "B", "annotator": "who", "created_at": "at"}


def test_a_csv_with_paths_and_choices(read: Read, picture: Picture, tmp_path: Path) -> None:
    left, right = picture("t/img/a.png", 0), picture("t/img/b.png", 1)
    lines = ["text,left,right,winner,who,at", 'a "fox",img/a.png,./img/b.png,a,12.0,2026-01-02T03:04:05Z']
    lines += ["an owl,img/a.png,img/b.png,B,12,1767323045", "a bee,img/a.png,img/b.png,TIE,13,", "x,img/a.png,,C,,"]
    lines += ["a fly,img/a.png,img/b.png,,14,soon"]
    (tmp_path / "t/votes.csv").write_text("\n".join(lines))
    found = read("table", tmp_path / "t/votes.csv", columns=CHOICE)
    assert [one["label_0"] for one in found] == [1.0, 0.0, 0.5, None, None]
    assert [one["has_label"] for one in found] == [True, True, True, True, False]
    assert (found[0]["image_0"], found[0]["image_1"], found[0]["prompt"]) == (left, right, 'a "fox"')
    assert [one["user_id"] for one in found] == ["12.0", "12", "13", None, "14"]
    assert found[0]["created_at"] == found[1]["created_at"]
    assert [one["created_at"] is None for one in found] == [False, False, True, True, True]


def test_paths_never_leave_the_folder_and_addresses_are_not_fetched(
    read: Read, picture: Picture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture("secret.png", 0)
    inside = picture("t/a.png", 1)
    (tmp_path / "t/link.png").symlink_to(tmp_path / "secret.png")
    bad = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "https://example.org/a.png", "file:///etc/passwd"]
    bad += ["data:image/png;base64,@@", "none.png", "a\x00.png", "s3://bucket/a.png", "..", "."]
    rows = [{"text": "x", "left": "a.png", "right": own, "winner": "A"} for own in bad]
    (tmp_path / "t/votes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        found = read("table", tmp_path / "t", columns={**CHOICE, "annotator": "", "created_at": ""})
    assert len(found) == len(bad)
    assert {one["image_0"] for one in found} == {inside}
    assert {one["image_1"] for one in found} == {None}
    assert "whose rows go to quarantine" in caplog.text
    assert "secret" not in caplog.text


def test_shares_votes_and_resolved_pairs(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(tiny_image(1)).decode()}"
    rows = [{"text": "x", "left": tiny_image(0), "right": {"bytes": tiny_image(1), "path": "a"}, "uri": uri}]
    rows = [{**row, "share": share, "n": 4, "a": a, "b": 1} for row in rows for share, a in ((0.25, 3), (1.5, -1))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")

    def labels(**columns: str) -> list[Any]:
        found = read("table", tmp_path, columns={"prompt": "text", **columns})
        assert found[0]["image_0"] == tiny_image(0)
        assert found[0]["image_1"] == tiny_image(1)
        return [(one["label_0"], one["num_votes"]) for one in found]

    both = {"image_0": "left", "image_1": "right"}
    assert labels(**both, preference="share", num_votes="n") == [(0.25, 4), (None, None)]
    assert labels(**both, preference="share") == [(0.25, None), (None, None)]
    assert labels(**both, votes_0="a", votes_1="b") == [(0.75, 4), (None, None)]
    assert labels(chosen="left", rejected="uri") == [(1.0, 1), (1.0, 1)]


def test_broken_lines_and_bad_text_cost_their_rows_alone(read: Read, picture: Picture, tmp_path: Path) -> None:
    picture("t/a.png", 0)
    good = json.dumps({"text": "x", "left": "a.png", "right": "a.png", "winner": "A"}).encode()
    lines = [good, good[:-5], b"[1, 2]", b"7", good.replace(b"x", b"\xff"), b"[" * 100_000, good]
    (tmp_path / "t/votes.jsonl").write_bytes(b"\n".join(lines))
    columns = {**CHOICE, "annotator": "", "created_at": ""}
    found = read("table", tmp_path / "t", columns=columns)
    assert [one["prompt"] for one in found] == ["x", None, None, None, None, None, "x"]
    assert [one["source_row"] for one in found] == list(range(7))
    (tmp_path / "t/votes.jsonl").unlink()
    (tmp_path / "t/votes.csv").write_bytes(
        b"text,left,right,winner\n\xff,a.png,a.png,A\nx,a.png,a.png,A,more\ny,a.png\n"
    )
    found = read("table", tmp_path / "t", columns=columns)
    assert [(one["prompt"], one["has_label"]) for one in found] == [(None, True), (None, False), ("y", False)]


@pytest.mark.parametrize(
    "columns",
    [
        {"image_0": "a"},
        {"image_0": "a", "image_1": "b", "preference": "p", "choice": "c"},
        {"chosen": "a", "rejected": "b", "choice": "c"},
        {"chosen": "a", "rejected": "b", "image_0": "c", "image_1": "d"},
    ],
)
def test_a_map_with_two_labels_or_half_a_pair_is_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="needs either `chosen` and `rejected`, or `image_0` and `image_1` with one"):
        ColumnsSection(**columns)


def test_missing_columns_and_maps_are_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("txt,left,right,winner\nx,a,b,A\n")
    with pytest.raises(ValueError, match=r"\[sources.columns\] describes: no column 'text' \(did you mean 'txt'\?\)"):
        read("table", tmp_path, columns={**CHOICE, "annotator": "", "created_at": ""})
    with pytest.raises(ValueError, match=r"of kind 'table' needs \[sources.columns\]"):
        read("table", tmp_path)
    (tmp_path / "votes.csv").unlink()
    (tmp_path / "votes.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"votes\.json is JSON, but not a list of objects"):
        read("table", tmp_path, columns=CHOICE)


def test_hosts_are_named_where_addresses_are_fetched() -> None:
    fields = {"name": "s", "kind": "table", "uri": "x", "licence": "y"}
    with pytest.raises(ValueError, match="fetch_urls = true and url_hosts go together"):
        SourceSection.model_validate({**fields, "fetch_urls": True})
    with pytest.raises(ValueError, match="fetch_urls = true and url_hosts go together"):
        SourceSection.model_validate({**fields, "url_hosts": ["a.org"]})
