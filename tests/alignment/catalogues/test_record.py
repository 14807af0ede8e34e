"""The base that every value object and table has."""

import pytest
from pydantic import ValidationError

from alignment.catalogues.record import Record
from alignment.contracts import values


class Point(Record):
    x: int = 0


def test_a_record_is_frozen_and_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Point().x = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Point(y=1)  # type: ignore[call-arg]


def test_contracts_have_the_same_base() -> None:
    assert values.Record is Record
