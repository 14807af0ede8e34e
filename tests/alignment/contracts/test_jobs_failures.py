"""The one exception that carries a job's reason."""

from typing import get_args

from alignment.contracts.jobs import FailureKind, JobFailure, JobStoppedError


def test_kinds_are_those_of_the_contract() -> None:
    assert get_args(FailureKind) == get_args(JobFailure.model_fields["kind"].annotation)


def test_it_reads_as_its_message() -> None:
    stopped = JobStoppedError("bad_data", "row 3 is torn", step=4)
    assert str(stopped) == stopped.message == "row 3 is torn"
    assert (stopped.kind, stopped.step) == ("bad_data", 4)
