"""Examples are spread over the snapshot, and only pictures of ours are shown."""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.report.examples import MOST_EXAMPLES, example_pairs, positions
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("total", "most", "found"), [(0, 3, []), (2, 3, [0, 1]), (9, 3, [1, 4, 7]), (100, 4, [12, 37, 62, 87])]
)
def test_positions_are_in_the_middle_of_equal_parts(total: int, most: int, found: list[int]) -> None:
    assert positions(total, most) == found


@pytest.mark.timeout(180)
def test_examples_come_from_every_part_of_the_snapshot(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    long = "a very long prompt " * 50
    tiny_pairs([tiny_row(n) for n in range(80)] + [tiny_row(n, caption=f"{long} {n}") for n in range(100, 120)])
    workspace = Workspace(tiny_project, settings)
    reports = [validate(ingest(shard, workspace), workspace) for shard in list_source_shards(workspace)]
    snapshot = build_snapshot(reports, workspace)
    examples = example_pairs(snapshot, workspace)
    assert len(examples) == len({(example.prompt, example.pictures) for example in examples}) == MOST_EXAMPLES
    assert all(uri.startswith("data:image/jpeg;base64,") for example in examples for uri, _ in example.pictures)
    assert max(len(example.prompt) for example in examples) == 303
    assert {example.generators for example in examples} == {
        ("generator-a", "generator-b"),
        ("generator-b", "generator-a"),
    }
    small = snapshot.model_copy(update={"num_pairs": {"train": 3, "calibration": 0, "test": 0}})
    assert len(example_pairs(small, workspace)) == 3
