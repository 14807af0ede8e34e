"""Distances computed by hand, and the two conditions for drift."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.monitor.drift import _categories, _contingency, _numbers, compare


def table(
    prompts: list[str], *, sharpness: list[float | None], generator: str = "a", preference: float = 1.0
) -> pa.Table:
    rows = len(prompts)
    columns: dict[str, object] = {"prompt": prompts, "source": ["s"] * rows, "preference": [preference] * rows}
    for side in (0, 1):
        columns |= {f"{name}_{side}": [64] * rows for name in ("width", "height", "num_bytes")}
        columns |= {f"sharpness_{side}": sharpness, f"mean_luminance_{side}": [100.0] * rows}
        columns |= {f"format_{side}": ["PNG"] * rows, f"generator_{side}": [generator] * rows}
    return pa.table(columns)


def test_columns_hold_both_images_and_each_prompt_once() -> None:
    own = table(["a red fox", "a red fox", "two kites"], sharpness=[1.0, None, 3.0])
    assert sorted(_numbers(own)["sharpness"].tolist()) == [1.0, 1.0, 3.0, 3.0]
    assert sorted(_numbers(own)["prompt_words"].tolist()) == [2.0, 3.0]
    found = _categories(own)
    assert len(found["format"]) == 6
    assert sorted(found["prompt_word"]) == ["a", "fox", "kites", "red", "two"]
    assert found["verdict"] == ["decided"] * 3


def test_the_same_stream_does_not_drift() -> None:
    spread = np.random.default_rng(0).normal(100, 10, 800).tolist()
    prompts = [f"fox number {number % 40}" for number in range(400)]
    found = compare(table(prompts, sharpness=spread[:400]), table(prompts, sharpness=spread[400:]))
    assert {drift.column for drift in found} >= {"sharpness", "prompt_words", "prompt_word", "generator", "verdict"}
    assert all(drift.p_value > 0.01 for drift in found)


def test_a_moved_number_and_a_new_generator_are_found() -> None:
    generator = np.random.default_rng(1)
    then = table(["a fox"] * 300, sharpness=generator.uniform(0, 1, 300).tolist())
    now = table(["a fox"] * 300, sharpness=generator.uniform(0.5, 1.5, 300).tolist(), generator="b", preference=0.5)
    found = {drift.column: drift for drift in compare(then, now)}
    assert found["sharpness"].effect == pytest.approx(0.5, abs=0.06), "half of the range is gone"
    assert found["sharpness"].p_value < 1e-6
    assert found["generator"].effect == pytest.approx(1.0)
    assert found["verdict"].effect == pytest.approx(1.0)
    assert (found["width"].effect, found["width"].p_value) == (0.0, 1.0)


def test_few_pairs_show_an_effect_but_no_significance() -> None:
    then = table(["a fox"] * 4, sharpness=[1.0, 2.0, 3.0, 4.0])
    now = table(["a fox"] * 4, sharpness=[2.0, 3.0, 4.0, 5.0])
    found = {drift.column: drift for drift in compare(then, now)}
    assert found["sharpness"].effect == pytest.approx(1 / 4)
    assert found["sharpness"].p_value > 0.01
    assert "prompt_words" not in found, "one prompt has no distribution"


def test_rare_categories_are_one_column_and_nothing_is_lost() -> None:
    """ "c" is expected 6 * 100 / 206 = 2.9 times on one side, fewer than 5."""
    counts = _contingency({"a": 60, "b": 40}, {"a": 50, "b": 50, "c": 6}, 50)
    assert counts.tolist() == [[60, 40, 0], [50, 50, 6]]
    kept_one = _contingency({"a": 60, "b": 40}, {"a": 50, "b": 50}, 1)
    assert kept_one.tolist() == [[60, 40], [50, 50]], "the rest of the list is b"
    assert _contingency({"a": 9}, {"a": 7}, 50).shape == (2, 1)


def test_cramers_v_by_hand() -> None:
    """60/40 against 40/60: chi-squared is 8 of 200, so V is 0.2."""
    then = table(["x"] * 100, sharpness=[1.0] * 100).set_column(2, "preference", pa.array([0.5] * 60 + [1.0] * 40))
    now = table(["x"] * 100, sharpness=[1.0] * 100).set_column(2, "preference", pa.array([0.5] * 40 + [0.0] * 60))
    assert {d.column: d for d in compare(then, now)}["verdict"].effect == pytest.approx(0.2)
