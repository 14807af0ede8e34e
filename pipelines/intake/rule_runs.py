"""Run rules through Great Expectations.

Great Expectations receives rule columns only, so no result can contain a prompt, a person or an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.intake.rules import Rule


@dataclass(frozen=True)
class Judged:
    """Result of one rule."""

    rule: "Rule"
    checked: int
    """Number of rows to which the rule applies; 1 for a table rule."""
    failed: int
    rows: tuple[int, ...]
    """Values of the column `row` where the rule failed; none for a table rule."""
    result: Any
    """Great Expectations' own result for the page, without values or indices."""


def judge(frame: "pd.DataFrame", rules: "Sequence[Rule]") -> list[Judged]:
    """Run every rule over a frame; a column `row` numbers its rows.

    Raises RuntimeError when a rule could not be evaluated: that is a defect in this code, never "no bad rows".
    """
    batch = _batch(frame)
    # Counts first: requesting the rows of every rule costs many times more, and most rules find none.
    results = _validate(batch, rules, "BASIC")
    failing = [rule for rule, result in results if rule.scope == "row" and not result.success]
    complete = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": ["row"],
        "exclude_unexpected_values": True,
    }
    rows = {rule.name: _failed_rows(result) for rule, result in _validate(batch, failing, complete)} if failing else {}
    return [_judged(rule, result, rows.get(rule.name, ())) for rule, result in results]


def _batch(frame: "pd.DataFrame") -> Any:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("pairs").add_dataframe_asset("batch")
    return asset.add_batch_definition_whole_dataframe("whole").get_batch(batch_parameters={"dataframe": frame})


def _validate(batch: Any, rules: "Sequence[Rule]", result_format: Any) -> "list[tuple[Rule, Any]]":
    """Pair each rule with its result. Great Expectations returns results in any order, so they are matched by meta."""
    import great_expectations as gx

    suite = gx.ExpectationSuite(name="pairs")
    for rule in rules:
        expectation = rule.expectation.copy(update={"meta": {"rule": rule.name}}, deep=True)
        suite.add_expectation(expectation)
    outcome = batch.validate(suite, result_format=result_format)
    by_rule = {result.expectation_config.meta["rule"]: result for result in outcome.results}
    for rule in rules:
        _check_evaluated(rule, by_rule.get(rule.name))
    return [(rule, by_rule[rule.name]) for rule in rules]


def _check_evaluated(rule: "Rule", result: Any) -> None:
    if result is None:
        raise RuntimeError(f"Great Expectations gave no result for rule {rule.name}.")
    info = result.exception_info or {}
    details = info.values() if all(isinstance(value, dict) for value in info.values()) else [info]
    messages = [detail.get("exception_message") for detail in details if detail.get("raised_exception")]
    if messages:
        raise RuntimeError(f"Rule {rule.name} could not be evaluated: {'; '.join(map(str, messages))}.")


def _failed_rows(result: Any) -> tuple[int, ...]:
    """Return row numbers from a COMPLETE result without values: there the index list is one dict of lists."""
    index = result.result["unexpected_index_list"]
    rows = [int(row) for entry in index for row in entry["row"]]
    if len(rows) != result.result["unexpected_count"]:
        raise RuntimeError(f"{result.expectation_config.meta}: {len(rows)} rows for a count that differs.")
    return tuple(rows)


def _judged(rule: "Rule", result: Any, rows: tuple[int, ...]) -> Judged:
    if rule.scope == "table":
        observed = result.result.get("observed_value")
        if isinstance(observed, np.generic):
            # Data Docs cannot render a number of numpy: they read its repr.
            result.result["observed_value"] = observed.item()
        # A batch without rows has no largest value, which `rows_present` reports; a set of columns is not a number.
        empty = "observed_value" in result.result and result.result["observed_value"] is None
        return Judged(rule, checked=1, failed=int(not result.success and not empty), rows=(), result=result)
    counts = result.result
    missing = counts.get("missing_count", 0)
    return Judged(
        rule, checked=counts["element_count"] - missing, failed=counts["unexpected_count"], rows=rows, result=result
    )
