"""A verdict made again from the stored table is the first one; another table or report is not taken for it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.project.file import Project, load_project
from pipelines.release.gate import decide as verdicts
from pipelines.settings import Settings

PROJECT = Path(__file__).parents[4] / "projects/shapes.toml"


@pytest.fixture
def project() -> Project:
    return load_project(PROJECT)


def parquet(columns: dict[str, list[Any]], path: Path) -> bytes:
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def test_columns_grids_and_digest_are_those_of_the_bytes(good_evaluation: Any, tmp_path: Path) -> None:
    table = verdicts.read_scores(parquet(good_evaluation.columns, tmp_path / "a.parquet"))
    assert table.columns == good_evaluation.columns
    assert len(table.scores.differences("taste_a", "champion")) == 200
    other = {**good_evaluation.columns, "score": [0.0] * len(good_evaluation.columns["score"])}
    assert verdicts.read_scores(parquet(other, tmp_path / "b.parquet")).sha256 != table.sha256


def test_the_projects_own_prompts_and_the_tables_digest_are_asked(
    project: Project, settings: Settings, good_evaluation: Any, tmp_path: Path
) -> None:
    table = verdicts.read_scores(parquet(good_evaluation.columns, tmp_path / "scores.parquet"))
    decision = verdicts.decide(
        good_evaluation.report,
        table,
        good_evaluation.candidate,
        champion_version=None,
        champion_weights_digest=good_evaluation.champion_weights_digest,
        project=project,
        settings=settings,
    )
    assert decision.verdict == "invalid"
    said = " ".join(decision.reasons)
    assert "the project now names" in said
    assert f"the table's sha256 is {table.sha256[:12]}" in said
    assert decision.policy_digest == project.gate.digest
