from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.contracts.data import DatasetSnapshot
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.job_kinds import Encode
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

AskEvaluation = Callable[..., JobRequest]


def test_a_base_or_judge_lacking_a_file_is_named(
    project: Project, settings: Settings, tmp_path: Path, snapshot: DatasetSnapshot, evaluate: AskEvaluation
) -> None:
    (tmp_path / "guard" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Judge .*guard is not complete; it lacks config\.json"):
        evaluate(project)
    (tmp_path / "base" / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"Base model .* lacks unet/config\.json"):
        Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(project, settings))
