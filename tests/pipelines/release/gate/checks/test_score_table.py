"""The report and its score table must tell one story."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.release.gate.checks.score_table import measurement_problems, recompute


def again(evaluation: Any, columns: dict[str, list[Any]] | None = None) -> list[str]:
    used = evaluation.columns if columns is None else columns
    return recompute(evaluation.report, used, scores_sha256=evaluation.report.scores_digest)


def test_an_untouched_table_gives_the_report_again(good_evaluation: Any) -> None:
    assert again(good_evaluation) == []
    assert measurement_problems(good_evaluation.report) == []


def test_another_file_is_noticed_by_its_digest(good_evaluation: Any) -> None:
    problems = recompute(good_evaluation.report, good_evaluation.columns, scores_sha256="0" * 64)
    assert len(problems) == 1
    assert "sha256" in problems[0]


def drop_last(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


def drop_prompt_everywhere(columns: dict[str, list[Any]]) -> None:
    keep = [i for i, prompt in enumerate(columns["prompt_index"]) if prompt != 7]
    for name, values in columns.items():
        columns[name] = [values[i] for i in keep]


EDITS: dict[str, tuple[Callable[[dict[str, list[Any]]], None], str]] = {
    "one score raised": (lambda c: c["score"].__setitem__(0, c["score"][0] + 5.0), "recomputed"),
    "one score lost": (lambda c: c["score"].__setitem__(0, math.nan), "not finite"),
    "one row lost": (drop_last, "exactly once"),
    "one prompt lost everywhere": (drop_prompt_everywhere, "199 prompts, the report has 200"),
    "roles exchanged": (
        lambda c: c.__setitem__(
            "role", [{"candidate": "base", "base": "candidate"}.get(role, role) for role in c["role"]]
        ),
        "recomputed",
    ),
    "other seeds": (lambda c: c.__setitem__("seed", [seed + 5 for seed in c["seed"]]), "the table has seeds [5, 6]"),
    "scorer renamed": (
        lambda c: c.__setitem__("scorer", ["x" if s == "taste_a" else s for s in c["scorer"]]),
        "does not name: x",
    ),
    "column lost": (lambda c: c.__delitem__("seed"), "lacks seed"),
    "text for a number": (lambda c: c["score"].__setitem__(0, "much"), "cannot be read"),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_an_edited_table_is_detected(good_evaluation: Any, edit: str) -> None:
    columns = copy.deepcopy(good_evaluation.columns)
    change, message = EDITS[edit]
    change(columns)
    assert any(message in problem for problem in again(good_evaluation, columns))


@pytest.mark.parametrize("field", ["win_rate_low", "win_rate_high", "mean_difference_low", "p_value", "wins"])
def test_an_edited_report_is_detected(good_evaluation: Any, field: str) -> None:
    first, *others = good_evaluation.report.comparisons
    edited = first.model_copy(update={field: getattr(first, field) + 1})
    report = good_evaluation.report.model_copy(update={"comparisons": (edited, *others)})
    problems = recompute(report, good_evaluation.columns, scores_sha256=report.scores_digest)
    assert len(problems) == 1
    assert f"{first.scorer} against the {first.against}, {field}" in problems[0]


def test_an_edited_report_with_nan_is_detected(good_evaluation: Any) -> None:
    first, *others = good_evaluation.report.comparisons
    report = good_evaluation.report.model_copy(
        update={"comparisons": (first.model_copy(update={"p_value": math.nan}), *others)}
    )
    assert recompute(report, good_evaluation.columns, scores_sha256=report.scores_digest)
