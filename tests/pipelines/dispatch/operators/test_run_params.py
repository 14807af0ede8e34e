"""A person can give a run whole numbers, flags and one line of text, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from pipelines.dispatch.operators import run_params

HOSTILE = (
    "../../etc/passwd",
    "file:///etc/passwd",
    "s3://another-bucket/weights",
    "registry.example/image:latest",
    "os:system",
    "{{ conn.chat.password }}",
    "3",
    "",
    1.5,
    -1,
    2**31,
    {"path": "/etc"},
    ["/etc"],
    [0],
    [2**31],
    list(range(1, 102)),
)
Maker = Callable[[str], Param]


def accepts(param: Param, value: Any) -> bool:
    """True when a run with this value may start."""
    try:
        return bool(param.resolve(value) == value)
    except ParamValidationError:
        return False


@pytest.mark.parametrize(
    ("make", "legal"),
    [
        (run_params.number, [0, 1, 2**31 - 1]),
        (run_params.optional_version, [None, 1, 2**31 - 1]),
        (run_params.versions, [[], [1], list(range(1, 101))]),
        (run_params.flag, [True, False]),
    ],
)
def test_a_path_an_image_or_code_is_no_number_and_no_flag(make: Maker, legal: list[Any]) -> None:
    for value in legal:
        assert accepts(make("described"), value), value
    for value in HOSTILE:
        assert not accepts(make("described"), value), value


def test_a_reason_is_one_bounded_line() -> None:
    for value in ("too dark", "zu dunkel, façade", "x" * 500):
        assert accepts(run_params.line("described"), value), value
    for value in ("", "no", "x" * 501, "a\nb c", "ab\x1b[2J", "abc\u202edef", "abc\u2028def", 7, None, ["abc"]):
        assert not accepts(run_params.line("described"), value), value
