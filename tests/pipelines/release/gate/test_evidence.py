"""Evidence is read from the bytes of the tables, and from the project as it is now."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.project.file import Project, load_project
from pipelines.release.gate.checks.interface import Evidence
from pipelines.release.gate.evidence import read_evidence, score_columns
from pipelines.release.gate.verdict import decide
from pipelines.settings import Settings
from pipelines.workspace import Workspace

PROJECT = Path(__file__).parents[4] / "projects/shapes.toml"


@pytest.fixture
def project() -> Project:
    return load_project(PROJECT)


def parquet(columns: dict[str, list[Any]], path: Path) -> bytes:
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def evidence_of(evaluation: Any, scores: bytes, project: Project, settings: Settings) -> Evidence:
    return read_evidence(
        evaluation.report,
        scores,
        evaluation.candidate,
        champion_version=None,
        champion_weights_digest=evaluation.champion_weights_digest,
        workspace=Workspace(project, settings),
    )


def test_columns_are_read_from_the_evaluations_folder(good_evaluation: Any, settings: Settings) -> None:
    folder = Path(urlsplit(settings.store_uri).path) / "evaluations/1"
    folder.mkdir(parents=True)
    parquet(good_evaluation.columns, folder / "scores.parquet")
    assert score_columns(f"{settings.store_uri}/evaluations/1", settings) == good_evaluation.columns


def test_what_is_no_table_is_refused(good_evaluation: Any, project: Project, settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"(?i)parquet"):
        evidence_of(good_evaluation, b"no table", project, settings)


def test_the_projects_own_prompts_and_the_tables_digest_are_asked(
    project: Project, settings: Settings, good_evaluation: Any, tmp_path: Path
) -> None:
    scores = parquet(good_evaluation.columns, tmp_path / "scores.parquet")
    evidence = evidence_of(good_evaluation, scores, project, settings)
    assert len(evidence.scores.differences("taste_a", "champion")) == 200
    decision = decide(evidence)
    assert decision.verdict == "invalid"
    text = " ".join(decision.reasons)
    assert "the project now names" in text
    assert f"the table's sha256 is {hashlib.sha256(scores).hexdigest()[:12]}" in text
    assert decision.policy_digest == project.gate.digest
