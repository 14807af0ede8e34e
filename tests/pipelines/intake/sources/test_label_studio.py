"""Exports of Label Studio: each annotation is one person's vote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Read = Callable[..., list[dict[str, Any]]]
COLUMNS = {"prompt": "text", "image_0": "first", "image_1": "second"}


def annotation(person: int, kind: str = "pairwise", **value: Any) -> dict[str, Any]:
    result = [{"from_name": "pw", "to_name": "a,b", "type": kind, "value": value}]
    return {"completed_by": person, "created_at": "2026-03-09T22:16:08.728353Z", "result": result}


def test_each_annotation_is_a_vote_of_its_person(read: Read, picture: Callable[..., bytes], tmp_path: Path) -> None:
    left, right = picture("ls/upload/3/ab-1.png", 0), picture("ls/2.png", 1)
    annotations = [
        annotation(7, selected="left"),
        {**annotation(8, selected="right"), "completed_by": {"id": 8, "email": "x@y.z"}},
        {**annotation(9, selected="left"), "was_cancelled": True},
        annotation(10, "choices", choices=["Tie"]),
        annotation(11, "choices", choices=["Left", "Right"]),
    ]
    data = {"text": "a fox", "first": "/data/upload/3/ab-1.png", "second": "/data/local-files/?d=2.png"}
    tasks = [
        {"data": data, "annotations": annotations},
        {"data": data, "annotations": []},
        {"data": 3, "annotations": 4},
    ]
    (tmp_path / "ls/export.json").write_text(json.dumps(tasks))
    found = read("label_studio", tmp_path / "ls/export.json", columns=COLUMNS)
    assert [(one["label_0"], one["user_id"]) for one in found[:4]] == [
        (1.0, "7"),
        (0.0, "8"),
        (0.5, "10"),
        (None, "11"),
    ]
    assert [one["has_label"] for one in found] == [True, True, True, False, False, False]
    assert (found[0]["image_0"], found[0]["image_1"], found[0]["prompt"]) == (left, right, "a fox")
    assert found[0]["created_at"].isoformat() == "2026-03-09T22:16:08.728353+00:00"
    assert [one["source_row"] for one in found] == [0, 0, 0, 0, 1, 2]


def test_a_minimal_export_is_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps([{"text": "a fox", "first": "a", "pw": "left"}]))
    with pytest.raises(ValueError, match="is not a JSON export of Label Studio: no column 'data'; no column 'annot"):
        read("label_studio", tmp_path, columns=COLUMNS)
