"""The exception that carries the reason of a job's stop."""

from typing import get_args

from alignment.contracts.jobs import FailureKind, JobFailure, JobStoppedError


def test_only_kinds_of_the_contract_are_accepted() -> None:
    assert get_args(FailureKind) == get_args(JobFailure.model_fields["kind"].annotation)


def test_its_text_is_its_message() -> None:
    stopped = JobStoppedError("bad_data", "row 3 is torn", step=4)
    assert str(stopped) == stopped.message == "row 3 is torn"
    assert (stopped.kind, stopped.step) == ("bad_data", 4)
