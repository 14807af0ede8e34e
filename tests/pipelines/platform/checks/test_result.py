"""A fault is returned with its fix; an error of the program itself is not a fault."""

import pytest

from pipelines.platform.checks.result import Check, check


def fail(error: Exception) -> str:
    raise error


def test_a_fault_has_a_fix_and_an_observation_has_none() -> None:
    assert check("a", lambda: "good", "fix it") == Check(name="a", ok=True, found="good")
    for error in (ValueError("bad"), OSError("bad"), RuntimeError("bad")):
        assert check("a", lambda own=error: fail(own), "fix it") == Check(name="a", ok=False, found="bad", fix="fix it")
    with pytest.raises(AssertionError):
        check("a", lambda: fail(AssertionError()), "fix it")
