from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pipelines.intake.rule_runs import judge
from pipelines.intake.rules import Rule, image_shortest_side, licence_present, rows_present
from pipelines.project.sections import ValidationSection

LIMITS = ValidationSection()

pytestmark = pytest.mark.timeout(180)


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"row": range(len(next(iter(columns.values())))), **columns})


def test_counts_and_rows_of_each_rule_in_the_given_order() -> None:
    data = frame(shortest_image_side=[40.0, 3.0, None, 5.0], licence=["MIT", "MIT", None, "MIT"])
    sides, licences, rows = judge(data, [image_shortest_side(LIMITS), licence_present(LIMITS), rows_present(LIMITS)])
    assert (sides.rule.name, sides.checked, sides.failed, sides.rows) == ("image_shortest_side", 3, 2, (1, 3))
    assert (licences.checked, licences.failed, licences.rows) == (4, 1, (2,))
    assert (rows.checked, rows.failed, rows.rows) == (1, 0, ())


def test_a_rule_that_cannot_be_evaluated_is_a_defect_and_not_no_bad_rows() -> None:
    with pytest.raises(RuntimeError, match=r"image_shortest_side could not be evaluated: .*shortest_image_side"):
        judge(frame(other=[1.0]), [image_shortest_side(LIMITS)])


def test_no_value_of_a_failed_row_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = []
    from great_expectations.datasource.fluent.interfaces import Batch

    plain: Callable[..., Any] = Batch.validate

    def watched(self: Any, expect: Any, *, result_format: Any) -> Any:
        formats.append(result_format)
        return plain(self, expect, result_format=result_format)

    monkeypatch.setattr(Batch, "validate", watched)
    rules: list[Rule] = [image_shortest_side(LIMITS), licence_present(LIMITS)]
    judge(frame(shortest_image_side=[40.0], licence=["MIT"]), rules)
    assert formats == ["BASIC"]
    judge(frame(shortest_image_side=[1.0], licence=["MIT"]), rules)
    assert formats[2]["exclude_unexpected_values"] is True
    assert formats[2]["unexpected_index_column_names"] == ["row"]
