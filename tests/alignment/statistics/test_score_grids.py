"""Complete grids of a score table, and reports of incomplete ones."""

from typing import Any

import pytest

from alignment.statistics.comparison import ScoreTable
from alignment.statistics.score_grids import ScoreGrids


def columns() -> dict[str, list[Any]]:
    """Two prompts, two seeds; the candidate gains 1 on prompt 0 and 3 on prompt 1, and 10 on seed 1 of prompt 1."""
    rows = [
        (role, "j", prompt, seed, (1 + 2 * prompt + 10 * prompt * seed) * (role == "candidate"), f"slice {prompt}")
        for role in ("candidate", "champion")
        for prompt in (0, 1)
        for seed in (0, 1)
    ]
    rows += [(f"{role}_shuffled", "j", prompt, 0, 0.5 * (role == "candidate"), f"slice {prompt}")
             for role in ("candidate", "champion") for prompt in (0, 1)]  # fmt: skip
    names = ("role", "scorer", "prompt_index", "seed", "score", "category")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def grids(given: dict[str, list[Any]]) -> tuple[ScoreGrids, list[str]]:
    return ScoreGrids.from_table(ScoreTable.from_columns(given))


def test_differences_over_all_seeds_over_some_and_under_other_prompts() -> None:
    scores, problems = grids(columns())
    assert problems == []
    assert scores.differences("j").tolist() == [1.0, 8.0]
    assert scores.differences("j", seeds=(0,)).tolist() == [1.0, 3.0]
    assert scores.differences("j", shuffled=True).tolist() == [0.5, 0.5]
    assert {name: mask.tolist() for name, mask in scores.slices().items()} == {
        "slice 0": [True, False],
        "slice 1": [False, True],
    }


def test_an_incomplete_grid_is_absent_and_named() -> None:
    given = columns()
    broken = {name: values[1:] for name, values in given.items()}
    scores, problems = grids(broken)
    assert not scores.has("j", "candidate")
    assert scores.has("j", "champion")
    assert "exactly" in problems[0]
    with pytest.raises(ValueError, match="no complete grid"):
        scores.differences("j")


def test_unequal_seeds_and_missing_seeds_are_refused() -> None:
    scores, _ = grids(columns())
    with pytest.raises(ValueError, match="no scores of seeds"):
        scores.differences("j", seeds=(7,))
    mixed = ScoreGrids({**scores.grids, ("j", "champion"): scores.grids["j", "champion_shuffled"]})
    with pytest.raises(ValueError, match="same prompts and seeds"):
        mixed.differences("j")


def test_a_prompt_has_one_slice() -> None:
    given = columns()
    given["category"][0] = "elsewhere"
    assert grids(given)[1] == ["1 prompts change their category or group from row to row"]
    given.pop("category")
    assert grids(given)[0].slices() == {}
