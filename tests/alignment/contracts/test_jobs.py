import pytest
from pydantic import ValidationError

from alignment.contracts.jobs import JobFailure, MetricsLine, Progress, SampleLine


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
