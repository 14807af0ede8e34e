"""Configurations of `accelerate launch`: each is read by accelerate, and none contradicts what the engines launch."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.dispatch.job_folder import JobFolder
from pipelines.dispatch.launch import prepare_files

FOLDER = Path(__file__).parents[2] / "infra" / "accelerate"
KINDS = {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "MULTI_GPU"}


def test_every_file_is_named_here() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name]
    assert config.num_machines == 1
    assert (config.num_processes == 1) is (name == "one_gpu")


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_it_is_what_the_engines_write_for_a_job(tmp_path: Path, name: str) -> None:
    request = made_request(
        project="tiny", placement=Placement(num_processes=8, sharding="fsdp2" if name == "fsdp2" else "none")
    )
    folder = JobFolder(tmp_path)
    prepare_files(folder, request)
    written = json.loads((folder.work_dir / "accelerate.json").read_text())
    ours = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert {key: ours[key] for key in written} == written
