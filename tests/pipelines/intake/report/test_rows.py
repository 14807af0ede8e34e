"""Each accepted row is in the snapshot or left out for one reason."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.report.rows import CONTRADICTED, COPY, HELD_OUT, read_rows
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)


def test_the_rows_of_a_snapshot_and_the_reasons_of_the_others(
    tiny_project: Project, settings: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    torn = tiny_row(3, label_0=1.0, label_1=0.0)
    tiny_pairs([tiny_row(n) for n in range(40, 80)] + [torn], "a.parquet")
    tiny_pairs([tiny_row(40), {**torn, "label_0": 0.0, "label_1": 1.0}, tiny_row(4), tiny_row(5)], "b.parquet")
    workspace = Workspace(tiny_project, settings)
    reports = [validate(ingest(shard, workspace), workspace) for shard in list_source_shards(workspace)]
    Path(tiny_project.evaluation.prompts).write_text("prompt\tcategory\nPrompt NUMBER 5\tany\n")
    snapshot = build_snapshot(reports, workspace)

    found = list(read_rows(snapshot, reports, workspace))
    used = [row for part in found for row in part.used]
    left_out: Counter[str] = sum((part.left_out for part in found), start=Counter())
    assert left_out == {COPY: 1, CONTRADICTED: 2, HELD_OUT: 1}
    assert Counter(row["split"] for row in used) == Counter({s: n for s, n in snapshot.num_pairs.items() if n})
    assert {row["prompt"] for row in used} == {f"prompt number {n}" for n in [4, *range(40, 80)]}
    assert sum(len(part.used) + part.left_out.total() for part in found) == sum(r.num_accepted for r in reports)
    assert max(len(part.used) for part in found) <= 32, "a few rows at a time"
    assert not any("image" in name for name in used[0])
