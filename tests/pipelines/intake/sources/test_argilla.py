"""Records of Argilla, as JSON and as the parquet that it publishes."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., list[dict[str, Any]]]
COLUMNS = {
    **{"prompt": "prompt", "image_0": "image_1", "image_1": "image_2"},
    **{"choice": "preference", "choice_0": "image_1", "choice_1": "image_2", "choice_tie": "same"},
}


def test_each_submitted_response_is_a_vote(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    uris = [f"data:image/png;base64,{base64.b64encode(tiny_image(n)).decode()}" for n in (0, 1)]
    answers = [{"value": "image_2", "user_id": "u"}, {"value": "same", "user_id": "v"}]
    answers.append({"value": "image_1", "user_id": "w", "status": "draft"})
    record = {
        "id": "1",
        "fields": {"prompt": "a fox", "image_1": uris[0], "image_2": uris[1]},
        "responses": {"preference": answers, "other": [{"value": "image_1", "user_id": "x"}]},
    }
    records = [record, {**record, "responses": {}}, {"fields": None, "responses": []}]
    (tmp_path / "records.json").write_text(json.dumps(records))
    found = read("argilla", tmp_path, columns=COLUMNS)
    assert [(one["label_0"], one["user_id"]) for one in found] == [(0.0, "u"), (0.5, "v"), (None, None), (None, None)]
    assert [one["has_label"] for one in found] == [True, True, False, False]
    assert (found[0]["image_0"], found[0]["image_1"]) == (tiny_image(0), tiny_image(1))


def test_the_published_data_set(read: Read, tiny_image: Callable[..., bytes], tmp_path: Path) -> None:
    row = {
        "prompt": "a fox",
        **{f"image_{n}": {"bytes": tiny_image(n), "path": None} for n in (1, 2)},
        "preference.responses": ["image_1", "image_2"],
        "preference.responses.users": ["u", "v"],
        "preference.responses.status": ["submitted", "discarded"],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train-00000-of-00001.parquet")
    (found,) = read("argilla", tmp_path, columns=COLUMNS)
    assert (found["label_0"], found["user_id"], found["image_0"]) == (1.0, "u", tiny_image(1))


def test_records_without_the_question_and_projects_without_fields_are_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(json.dumps([{"prompt": "x", "image_1": "a", "image_2": "b"}]))
    with pytest.raises(
        ValueError, match=r"is not a data set of Argilla with these fields: no column 'preference\.resp"
    ):
        read("argilla", tmp_path, columns=COLUMNS)
    with pytest.raises(ValueError, match=r"of kind 'argilla' needs \[sources.columns\] with the fields"):
        read("argilla", tmp_path)
