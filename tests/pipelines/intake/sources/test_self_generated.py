"""Drawn pairs are ingested like any shard, train, and never calibrate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alignment.jobs.draw_pairs import SCHEMA
from pipelines.contracts.pairs import ValidationReport
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project, load_project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

pytestmark = pytest.mark.timeout(180)
DRAW = (
    '[[sources]]\nname = "style"\nkind = "self_generated"\nlicence = "CC0-1.0"\n[sources.draw]\nprompts = "few.txt"\n'
)
DRAW += 'chosen_template = "{prompt} in blue"\nseeds = [1]\nsampler = { steps = 2 }\n[snapshot]'


@pytest.fixture
def project(tiny_project: Project) -> Project:
    """The tiny project with a source drawn by the base model."""
    tiny_project.path.write_text(tiny_project.path.read_text().replace("[snapshot]", DRAW))
    return load_project(tiny_project.path)


@pytest.fixture
def drawn(project: Project, settings: Settings, tiny_image: Callable[..., bytes], tmp_path: Path) -> Project:
    """The project after 40 pairs were drawn."""
    rows = [
        {
            "caption": f"prompt number {n}",
            "jpg_0": tiny_image(1000 + 2 * n),
            "jpg_1": tiny_image(1001 + 2 * n),
            "label_0": float(n % 2),
            "label_1": float(1 - n % 2),
            "has_label": True,
            "user_id": "template {prompt} in blue over {prompt}",
            "model_0": "base",
            "model_1": "base",
        }
        for n in range(40)
    ]
    folder = tmp_path / "drawing"
    folder.mkdir()
    pq.write_table(SCHEMA.empty_table().from_pylist(rows, schema=SCHEMA), folder / "pairs-00000.parquet")
    store = open_store(settings.store_uri, settings)
    store.publish_folder(folder, store.uri("drawn", "d"), {})
    sources = (project.sources[0], project.sources[1].model_copy(update={"uri": store.uri("drawn", "d")}))
    return project.model_copy(update={"sources": sources})


def reports_of(project: Project, settings: Settings) -> list[ValidationReport]:
    shards = list_source_shards(Workspace(project, settings))
    return [validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings)) for shard in shards]


def test_prompts_are_resolved_beside_the_project_file(project: Project) -> None:
    draw = project.sources[1].draw
    assert draw is not None
    assert (draw.prompts, project.sources[1].uri) == (str(project.path.parent / "few.txt"), "")


def test_a_source_that_is_not_drawn_yet_names_the_next_step(
    project: Project, settings: Settings, tiny_pairs: Callable[..., Any], tiny_row: Callable[..., Any]
) -> None:
    tiny_pairs([tiny_row(1)])
    with pytest.raises(ValueError, match=r"its pairs are not drawn yet\. Run `plumbline draw`"):
        list_source_shards(Workspace(project, settings))


def test_drawn_pairs_train_and_only_people_are_held_out(
    drawn: Project, settings: Settings, tiny_pairs: Callable[..., Any], tiny_row: Callable[..., Any]
) -> None:
    tiny_pairs([tiny_row(n) for n in range(40)])
    snapshot = build_snapshot(reports_of(drawn, settings), Workspace(drawn, settings))
    folder = Path(snapshot.uri.removeprefix("file://"))
    rows = {s: pq.read_table(folder / f"{s}.parquet").to_pylist() for s in ("train", "calibration", "test")}
    by_source = {split: [row["source"] for row in found] for split, found in rows.items()}
    assert set(by_source["calibration"]) == set(by_source["test"]) == {"tiny_pairs"}
    trained = {row["prompt"] for row in rows["train"] if row["source"] == "tiny_pairs"}
    assert {row["prompt"] for row in rows["train"] if row["source"] == "style"} == trained
    template = {row["annotator_id"] for row in rows["train"] if row["source"] == "style"}
    assert template == {"template {prompt} in blue over {prompt}"}
    assert snapshot.sources == ("style", "tiny_pairs")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("self_generated", {"uri": "x"}), ("pick_a_pic", {"uri": ""}), ("self_generated", {"uri": ""})],
)
def test_a_source_has_either_a_drawing_or_a_uri(kind: str, changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"needs (\[sources.draw\] and no uri|a uri and no \[sources.draw\])"):
        SourceSection(name="s", kind=kind, licence="CC0-1.0", **changes)
