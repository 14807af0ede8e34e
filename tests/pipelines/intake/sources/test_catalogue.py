"""Each kind resolves, has an example that loads, and loses no row on the way from its files to a snapshot."""

import base64
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.catalogues.lookup import resolve
from pipelines.intake.ingestion import ingest, list_source_shards, recognise
from pipelines.intake.pairs import ACCEPTED_FILE, QUARANTINE_FILE
from pipelines.intake.quarantine import replay
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.sources.catalogue import SOURCES, PickAPic, SourceParams, find_source, source_example
from pipelines.intake.sources.feedback_table import create_table
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

Image = Callable[..., bytes]


def test_every_kind_resolves_to_a_source() -> None:
    for entry in SOURCES:
        source = resolve(entry.implementation)()
        assert callable(source.list_shards)
        assert callable(source.read_shard)
        assert find_source(entry().kind) is entry  # type: ignore[attr-defined]


def test_an_unknown_kind_gets_the_nearest_as_a_suggestion() -> None:
    assert find_source("pick_a_pic") is PickAPic
    with pytest.raises(ValueError, match=r"source kind 'pickapic'. Did you mean 'pick_a_pic'"):
        find_source("pickapic")


@pytest.mark.parametrize("entry", SOURCES, ids=lambda entry: entry.__name__)
def test_the_example_of_a_kind_is_a_source_of_this_kind(entry: type[SourceParams]) -> None:
    (table,) = tomllib.loads(source_example(entry))["sources"]
    assert SourceSection.model_validate(table).kind == entry.model_fields["kind"].default
    assert table["licence"]


# --- from files to a snapshot -----------------------------------------------------------------------------------------


def rows_of_votes(image: Image) -> list[dict[str, Any]]:
    """Three good comparisons, and rows with a bad image, an empty prompt, an illegal label and no second image."""
    good = [
        {"prompt": f"prompt {n}", "left": image(2 * n), "right": image(2 * n + 1), "share": [1.0, 0.0, 0.5][n]}
        for n in range(3)
    ]
    bad = [{**good[0], "left": b"no image"}, {**good[1], "prompt": " "}, {**good[2], "share": 3.0}]
    return [*good, *bad, {**good[0], "prompt": "other", "right": None}]


def as_path(folder: Path, data: bytes | None, name: str) -> str | None:
    if data is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name


def write_jsonl(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return {}


def with_paths(folder: Path, image: Image) -> list[dict[str, Any]]:
    rows = rows_of_votes(image)
    return [
        {**row, **{side: as_path(folder, row[side], f"{n}{side}.png") for side in ("left", "right")}}
        for n, row in enumerate(rows)
    ]


def struct(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else {"bytes": data, "path": None}


def make_table(folder: Path, image: Image) -> dict[str, Any]:
    write_jsonl(folder, "votes.jsonl", with_paths(folder, image))
    return {"columns": {"image_0": "left", "image_1": "right", "preference": "share"}}


def make_hpd(folder: Path, image: Image) -> dict[str, Any]:
    return write_jsonl(
        folder,
        "train.jsonl",
        [
            {
                "prompt": row["prompt"],
                "image_path": [row["left"], row["right"]],
                "human_preference": {1.0: [1, 0], 0.0: [0, 1], 0.5: [1, 1]}.get(row["share"], [0, 0]),
            }
            for row in with_paths(folder, image)
        ],
    )


def make_image_reward_db(folder: Path, image: Image) -> dict[str, Any]:
    ranks = {1.0: (1, 2), 0.0: (2, 1), 0.5: (1, 1)}
    rows = []
    for n, row in enumerate(with_paths(folder, image)):
        first, second = ranks.get(row["share"], (None, None))
        about = {"prompt_id": str(n), "prompt": row["prompt"]}
        rows += [
            {**about, "rank": first, "image_path": row["left"]},
            {**about, "rank": second, "image_path": row["right"]},
        ]
    return write_jsonl(folder, "test.jsonl", rows)


def make_open_image_preferences(folder: Path, image: Image) -> dict[str, Any]:
    folder.mkdir()
    rows = [
        {"prompt": row["prompt"], "chosen": struct(row["left"]), "rejected": struct(row["right"])}
        for row in rows_of_votes(image)
        if row["share"] == 1.0
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return {}


def make_rapidata(folder: Path, image: Image) -> dict[str, Any]:
    folder.mkdir()
    rows = [
        {
            **{"prompt": row["prompt"], "image1": struct(row["left"]), "image2": struct(row["right"])},
            **{"votes_image1": int(10 * row["share"]), "votes_image2": 10 - int(10 * row["share"])},
        }
        for row in rows_of_votes(image)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return {}


def make_arena(folder: Path, image: Image) -> dict[str, Any]:
    votes = {1.0: "leftvote", 0.0: "rightvote", 0.5: "tievote"}
    rows = [
        {
            **{"prompt": row["prompt"], "left_image": row["left"], "right_image": row["right"]},
            "vote_type": votes.get(row["share"], "none of them"),
        }
        for row in with_paths(folder, image)
    ]
    return write_jsonl(folder, "votes.jsonl", rows)


def make_label_studio(folder: Path, image: Image) -> dict[str, Any]:
    sides = {1.0: "left", 0.0: "right", 0.5: "tie"}
    rows = []
    for row in with_paths(folder, image):
        value = {"selected": sides.get(row["share"], "up")}
        result = [{"type": "pairwise", "value": value}]
        data = {"prompt": row["prompt"], "image1": row["left"], "image2": row["right"]}
        rows.append({"data": data, "annotations": [{"completed_by": 1, "result": result}]})
    return write_jsonl(folder, "export.jsonl", rows)


def make_argilla(folder: Path, image: Image) -> dict[str, Any]:
    sides = {1.0: "a", 0.0: "b", 0.5: "tie"}
    rows = []
    for row in rows_of_votes(image):
        uris = [
            data and f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (row["left"], row["right"])
        ]
        answer = {"value": sides.get(row["share"], "c"), "user_id": "u"}
        fields = {"prompt": row["prompt"], "a": uris[0], "b": uris[1]}
        rows.append({"fields": fields, "responses": {"better": [answer]}})
    write_jsonl(folder, "records.jsonl", rows)
    return {"columns": {"image_0": "a", "image_1": "b", "choice": "better", "choice_0": "a", "choice_1": "b"}}


def make_folder(folder: Path, image: Image) -> dict[str, Any]:
    for n, row in enumerate(rows_of_votes(image)):
        as_path(folder / "w", row["left"], f"{n}.png")
        as_path(folder / "l", row["right"], f"{n}.png")
        (folder / f"{n}.txt").write_text(row["prompt"])
    return {}


def make_feedback(folder: Path, image: Image) -> dict[str, Any]:
    import sqlite3

    folder.mkdir()
    path = folder / "votes.db"
    create_table(SourceSection(name="s", kind="feedback", uri=str(path), licence="x"))
    with sqlite3.connect(path) as connection:
        for row in rows_of_votes(image):
            values = (row["prompt"], row["left"], row["right"] or "none", row["share"])
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(
                "INSERT INTO feedback_votes (prompt, image_0, image_1, preference) VALUES (?, ?, ?, ?)", values
            )
    connection.close()
    return {"uri": str(path)}


MAKERS: dict[str, tuple[Callable[[Path, Image], dict[str, Any]], int, int]] = {
    "table": (make_table, 3, 4),
    "hpd": (make_hpd, 3, 4),
    "image_reward_db": (make_image_reward_db, 3, 4),
    "open_image_preferences": (make_open_image_preferences, 1, 2),
    "rapidata": (make_rapidata, 3, 4),
    "arena": (make_arena, 3, 4),
    "label_studio": (make_label_studio, 3, 4),
    "argilla": (make_argilla, 3, 4),
    "folder": (make_folder, 3, 4),
    "feedback": (make_feedback, 3, 4),
}
"""Writer of the same rows in the layout of a kind, with the numbers of rows that are accepted and quarantined."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", MAKERS)
def test_rows_that_are_wrong_are_quarantined_and_the_others_reach_the_snapshot(
    kind: str, tiny_project: Project, settings: Settings, tiny_image: Image, tmp_path: Path
) -> None:
    make, num_accepted, num_quarantined = MAKERS[kind]
    folder = tmp_path / "source"
    fields = make(folder, tiny_image)
    source = SourceSection.model_validate({"name": "s", "kind": kind, "uri": str(folder), "licence": "x", **fields})
    changes = {
        "sources": (source,),
        "validation": tiny_project.validation.model_copy(update={"max_quarantined_share": 1.0}),
        "snapshot": tiny_project.snapshot.model_copy(update={"calibration_share": 0.0, "test_share": 0.0}),
    }
    workspace = Workspace(tiny_project.model_copy(update=changes), settings)
    (shard,) = list_source_shards(workspace)
    batch = ingest(shard, workspace)
    assert ingest(shard, workspace) == batch
    report = validate(batch, workspace)
    assert report.passed, report.failure
    assert (report.num_accepted, report.num_quarantined) == (num_accepted, num_quarantined)
    home = Path(report.uri.removeprefix("file://"))
    tables = [pq.read_table(home / name) for name in (ACCEPTED_FILE, QUARANTINE_FILE)]
    assert sum(map(len, tables)) == batch.num_rows == num_accepted + num_quarantined
    assert all(tables[1]["reasons"].to_pylist())
    assert replay(report, workspace).num_accepted == 0
    snapshot = build_snapshot([report], workspace)
    assert sum(snapshot.num_pairs.values()) == num_accepted
    if find_source(kind).layouts and not source.columns:
        assert recognise(str(folder), open_store(settings.store_uri))[0] == kind


def test_a_folder_of_an_unknown_layout_names_its_columns(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"Its columns: a, b\. No kind has these columns; `table` reads them if"):
        recognise(str(tmp_path), open_store(settings.store_uri))
