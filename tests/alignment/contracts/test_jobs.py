from typing import Any

import pytest
from pydantic import ValidationError

from alignment.contracts.jobs import JobFailure, MetricsLine, Placement, Progress, SampleLine


def test_a_failure_survives_its_json() -> None:
    failure = JobFailure(kind="diverged", message="The loss is nan.", step=7)
    assert JobFailure.model_validate_json(failure.model_dump_json()) == failure


def test_a_failure_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        JobFailure.model_validate({"kind": "tired", "message": "no"})


def test_lines_with_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        MetricsLine.model_validate({"step": 1, "unix_seconds": 0.0, "metrics": {}, "extra": 1})
    with pytest.raises(ValidationError, match="eta"):
        Progress.model_validate({"done": 1, "total": 2, "unit": "steps", "eta": 3})


@pytest.mark.parametrize("path", ["../a.png", "/a.png", "", "samples/../../a.png"])
def test_a_sample_outside_the_output_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="does not stay inside"):
        SampleLine(step=1, key="samples/00", path=path, prompt="p")


def test_a_placement_between_two_sizes_is_for_ray() -> None:
    placement = Placement(engine="ray", num_processes=8, min_processes=2, gpus_per_process=1)
    assert Placement.model_validate_json(placement.model_dump_json()) == placement


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"engine": "ray", "num_processes": 2, "min_processes": 3}, "min_processes = 3 is above num_processes = 2"),
        ({"num_processes": 2, "min_processes": 1}, "min_processes is for the engine 'ray', and engine = 'local'"),
        ({"compile_blocks": True, "sharding": "fsdp2"}, "compile_blocks = true needs sharding = 'none', not 'fsdp2'"),
        ({"channels_last": True, "sharding": "fsdp2"}, "channels_last = true needs sharding = 'none', not 'fsdp2'"),
        ({"gpus_per_process": 1}, "gpus_per_process is for the engine 'ray'"),
        ({"engine": "ray", "gpus_per_process": 2}, "less than or equal to 1"),
        ({"engine": "ray", "max_restarts": -1}, "greater than or equal to 0"),
    ],
)
def test_a_contradictory_placement_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Placement.model_validate(fields)
