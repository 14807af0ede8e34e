import itertools
import json
import sys
from pathlib import Path

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.dispatch import launch
from pipelines.dispatch.job_folder import JobFolder
from pipelines.dispatch.launch import job_command, must_use_cpu, own_rank, prepare_files


def test_one_process_is_the_job_itself(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    command = job_command(folder, "encode", Placement())
    assert command[:3] == [sys.executable, "-m", "alignment.jobs.encode"]
    assert dict(zip(command[3::2], command[4::2], strict=True)) == {
        "--spec": str(tmp_path / "work/spec.json"),
        "--placement": str(tmp_path / "work/placement.json"),
        "--inputs": str(tmp_path / "work/inputs"),
        "--out": str(tmp_path / "work/out"),
    }


def test_several_processes_go_through_the_launcher_with_nothing_left_to_its_defaults(tmp_path: Path) -> None:
    command = job_command(JobFolder(tmp_path), "train", Placement(num_processes=4, threads_per_process=3))
    job = command.index("alignment.jobs.train")
    launcher = command[: job - 1]
    assert launcher[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert "--cpu" not in launcher, "with it the launcher starts one process only"
    values = dict(itertools.pairwise(launcher))
    assert values["--config_file"] == str(tmp_path / "work/accelerate.json")
    assert (values["--num_processes"], values["--num_machines"], values["--main_process_port"]) == ("4", "1", "0")
    assert (values["--mixed_precision"], values["--dynamo_backend"]) == ("no", "no")
    assert values["--num_cpu_threads_per_process"] == "3"


def test_a_rank_that_a_cluster_starts_is_the_job_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_rank() is None
    monkeypatch.setenv("RANK", "3")
    assert own_rank() == 3
    command = job_command(JobFolder(tmp_path), "train", Placement(num_processes=4))
    assert command[:3] == [sys.executable, "-m", "alignment.jobs.train"]


def test_spec_and_placement_are_written_unchanged(tmp_path: Path) -> None:
    request = made_request(project="p", spec={"seed": 7}, placement=Placement(num_processes=2))
    prepare_files(JobFolder(tmp_path), request)
    work = tmp_path / "work"
    assert json.loads((work / "spec.json").read_text()) == {"seed": 7}
    assert Placement.model_validate_json((work / "placement.json").read_bytes()) == request.placement
    assert json.loads((work / "accelerate.json").read_text())["num_processes"] == 2
    assert (work / "out").is_dir()


@pytest.mark.parametrize(
    ("driver", "visible", "torch_says", "expected"),
    [(False, None, 0, True), (True, None, 0, False), (True, None, 1, True), (True, "", 0, True), (True, "-1", 0, True)],
)
def test_the_cpu_is_used_unless_torch_sees_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: bool, visible: str | None, torch_says: int, expected: bool
) -> None:
    if driver:
        (tmp_path / "version").touch()
    monkeypatch.setattr(launch, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(launch, "ASK_TORCH", f"raise SystemExit({torch_says})")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert must_use_cpu() is expected
