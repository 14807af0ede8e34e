import shutil
from pathlib import Path

from alignment.contracts.data import DatasetSnapshot
from pipelines.dispatch.job_kinds import Encode
from pipelines.dispatch.requests.request import with_generation
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.workspace import Workspace


def test_the_same_inputs_give_the_same_job_in_any_project_folder(
    project: Project, settings: Settings, tmp_path: Path, snapshot: DatasetSnapshot
) -> None:

    first = Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(project, settings))
    for name in ("base", "judge", "guard", "prompts.tsv", "words.toml"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (shutil.copytree if (tmp_path / name).is_dir() else shutil.copy)(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = load_project(tmp_path / "elsewhere" / "words.toml")
    again = Encode(snapshot=snapshot, recipe=moved.recipes()[0]).request(Workspace(moved, settings))
    assert (again.job_id, again.output_uri) == (first.job_id, first.output_uri)
    (tmp_path / "elsewhere/base/unet/model.safetensors").write_text("other weights")
    assert (
        Encode(snapshot=snapshot, recipe=moved.recipes()[0]).request(Workspace(moved, settings)).job_id != first.job_id
    )


def test_placement_is_no_part_of_the_identity(project: Project, settings: Settings, snapshot: DatasetSnapshot) -> None:
    first = Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(project, settings))
    placed = project.placement.encode.model_copy(update={"num_processes": 8})
    other = project.model_copy(update={"placement": project.placement.model_copy(update={"encode": placed})})
    request = Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(other, settings))
    assert request.placement.num_processes == 8
    assert (request.job_id, request.output_uri) == (first.job_id, first.output_uri)


def test_a_generation_is_another_job_with_another_result(
    project: Project, settings: Settings, snapshot: DatasetSnapshot
) -> None:
    first = Encode(snapshot=snapshot, recipe=project.recipes()[0]).request(Workspace(project, settings))
    second = with_generation(first, 2)
    assert second.output_uri == f"{first.output_uri}.g2"
    assert second.job_id.endswith("-g2")
    assert second.spec_digest == first.spec_digest
    assert with_generation(second, 0) == first
