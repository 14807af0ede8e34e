"""Best and worst prompts."""

import pytest

from alignment.statistics.best_and_worst import extreme_prompts
from alignment.statistics.comparison import ScoreTable


def table(gains: dict[str, list[float]]) -> ScoreTable:
    """One seed; the champion scores 0 and the candidate its gain."""
    rows = [
        (role, judge, 10 + index, 0, gain if role == "candidate" else 0.0)
        for judge, values in gains.items()
        for role in ("candidate", "champion")
        for index, gain in enumerate(values)
    ]
    names = ("role", "scorer", "prompt_index", "seed", "score")
    return ScoreTable.from_columns({name: [row[i] for row in rows] for i, name in enumerate(names)})


def test_extremes_are_ordered_by_strength() -> None:
    found = extreme_prompts(table({"a": [1.0, -5.0, 3.0, 0.0, -1.0]}), ["a"], 2)
    assert [(end, index) for end, index, _ in found] == [("gain", 12), ("gain", 10), ("loss", 11), ("loss", 14)]
    assert found[0][2] == {"a": 3.0}


def test_judges_count_equally_whatever_their_scale() -> None:
    gains = {"small": [0.02, 0.01, -0.01, -0.02], "large": [-100.0, 300.0, 100.0, -300.0]}
    end, index, differences = extreme_prompts(table(gains), ["small", "large"], 1)[0]
    assert (end, index) == ("gain", 11)
    assert differences == {"small": 0.01, "large": 300.0}


def test_no_prompt_is_at_both_ends_and_equal_models_raise_no_error() -> None:
    found = extreme_prompts(table({"a": [0.0, 0.0, 0.0]}), ["a"], 4)
    assert [(end, index) for end, index, _ in found] == [("gain", 10), ("loss", 12)]


def test_an_unmeasured_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        extreme_prompts(table({"a": [1.0, 2.0]}), ["b"], 1)
