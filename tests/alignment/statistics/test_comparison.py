"""The paired statistics: recorded vectors, rejected input, and coverage of the intervals."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.statistics.comparison import (
    SCORE_COLUMNS,
    ScoreTable,
    _compare,
    compare_all,
    mean_interval,
    outcome_counts,
    paired_differences,
    seed_grid,
    superiority_p_value,
    win_rate_interval,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "stats_paired_win_rate.json").read_text())


def columns(scorer: str, scores_by_role: dict[str, list[list[float]]]) -> dict[str, list[Any]]:
    """Plain columns of a score table from one [prompts][seeds] grid per role."""
    rows = [
        (role, scorer, prompt, seed, score)
        for role, grid in scores_by_role.items()
        for prompt, scores in enumerate(grid)
        for seed, score in enumerate(scores)
    ]
    return {name: [row[i] for row in rows] for i, name in enumerate(SCORE_COLUMNS)}


def table(scorer: str, scores_by_role: dict[str, list[list[float]]]) -> ScoreTable:
    return ScoreTable.from_columns(columns(scorer, scores_by_role))


@pytest.mark.parametrize("scorer", sorted(GOLDEN["cases"]))
def test_recorded_statistics_are_reproduced(scorer: str) -> None:
    case = GOLDEN["cases"][scorer]
    expected = case["expected"]
    scores = table(scorer, {"candidate": case["candidate"], "champion": case["baseline"]})
    found = _compare(scores, scorer, "champion", tie_threshold=case["tie_threshold"], confidence=0.95)
    assert (found.wins, found.ties, found.losses) == (expected["wins"], expected["ties"], expected["losses"])
    assert found.win_rate == pytest.approx(expected["win_rate_ties_half"], abs=1e-9)
    assert found.p_value == pytest.approx(expected["wilcoxon_p_greater"], abs=1e-9)
    assert found.mean_difference == pytest.approx(expected["mean_diff"], abs=1e-9)
    bounds = [found.mean_difference_low, found.mean_difference_high]
    assert bounds == pytest.approx(expected["mean_diff_ci95"], abs=1e-9)
    decided = win_rate_interval(found.wins, 0, found.losses, confidence=0.95)
    assert decided == pytest.approx(expected["wilson_95_decided"], abs=1e-9)


def test_seeds_are_averaged_before_anything_is_counted() -> None:
    # Cell by cell the candidate loses three of four; by prompt means it wins both.
    scores = table("s", {"candidate": [[9.0, 0.0], [9.0, 0.9]], "base": [[1.0, 1.0], [1.0, 1.0]]})
    found = _compare(scores, "s", "base", tie_threshold=0.0, confidence=0.95)
    assert (found.num_prompts, found.wins, found.losses) == (2, 2, 0)
    assert found.mean_difference == pytest.approx((3.5 + 3.95) / 2)


def test_row_order_does_not_matter() -> None:
    plain = columns("s", {"candidate": [[3.0, 1.0], [2.0, 5.0], [0.0, 1.0]], "champion": [[1.0, 2.0]] * 3})
    order = np.random.default_rng(0).permutation(len(plain["score"]))
    shuffled = {name: [values[i] for i in order] for name, values in plain.items()}
    results = [
        _compare(ScoreTable.from_columns(c), "s", "champion", tie_threshold=0.0, confidence=0.9)
        for c in (plain, shuffled)
    ]
    assert results[0] == results[1]
    assert results[0].wins == 2


def test_tie_threshold_is_inclusive_and_ignores_float_dust() -> None:
    differences = np.round(np.array([0.02, -0.02, 0.3 - 0.28, 0.021, -0.03]), 9)
    assert outcome_counts(differences, 0.02) == (1, 3, 1)


def test_swapping_the_models_mirrors_every_number() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.2, 1, (40, 2)).tolist(), rng.normal(0, 1, (40, 2)).tolist()
    ahead = _compare(table("s", {"candidate": first, "base": second}), "s", "base", tie_threshold=0.1, confidence=0.95)
    behind = _compare(table("s", {"candidate": second, "base": first}), "s", "base", tie_threshold=0.1, confidence=0.95)
    assert (ahead.wins, ahead.ties) == (behind.losses, behind.ties)
    assert ahead.win_rate_low == pytest.approx(1 - behind.win_rate_high)
    assert ahead.mean_difference_low == pytest.approx(-behind.mean_difference_high)
    assert ahead.p_value < 0.5 < behind.p_value


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["score"].__setitem__(0, math.nan), "not finite"),
        (lambda c: c["score"].__setitem__(0, None), "not finite"),
        (lambda c: c["score"].__setitem__(0, math.inf), "not finite"),
        (lambda c: [values.pop() for values in c.values()], "exactly once"),
        (lambda c: c["seed"].__setitem__(0, 1), "exactly once"),
        (lambda c: c["prompt_index"].__setitem__(0, 7), "exactly once"),
        (lambda c: [values.append(values[-1]) for values in c.values()], "exactly once"),
        (lambda c: c["role"].__setitem__(slice(0, 4), ["base"] * 4), "no scores"),
    ],
)
def test_a_damaged_table_is_refused(edit: Any, message: str) -> None:
    plain = columns("s", {"candidate": [[1.0, 2.0], [3.0, 4.0]], "champion": [[1.0, 2.0], [3.0, 4.0]]})
    edit(plain)
    with pytest.raises(ValueError, match=message):
        _compare(ScoreTable.from_columns(plain), "s", "champion", tie_threshold=0.0, confidence=0.95)


def test_unequal_prompts_are_refused() -> None:
    scores = table("s", {"candidate": [[1.0], [2.0], [3.0]], "champion": [[1.0], [2.0]]})
    with pytest.raises(ValueError, match="which differ"):
        _compare(scores, "s", "champion", tie_threshold=0.0, confidence=0.95)


def test_unequal_seeds_are_refused() -> None:
    plain = columns("s", {"candidate": [[1.0, 2.0], [3.0, 4.0]], "champion": [[1.0, 2.0], [3.0, 4.0]]})
    plain["seed"][4:] = [5, 6, 5, 6]
    with pytest.raises(ValueError, match="which differ"):
        _compare(ScoreTable.from_columns(plain), "s", "champion", tie_threshold=0.0, confidence=0.95)


def test_missing_column_and_ragged_columns_are_named() -> None:
    plain = columns("s", {"candidate": [[1.0]]})
    with pytest.raises(ValueError, match="lacks seed"):
        ScoreTable.from_columns({k: v for k, v in plain.items() if k != "seed"})
    with pytest.raises(ValueError, match="differ in length"):
        ScoreTable.from_columns({**plain, "seed": []})


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf])
def test_tie_threshold_must_be_a_number_of_at_least_zero(threshold: float) -> None:
    scores = table("s", {"candidate": [[1.0], [2.0]], "base": [[1.0], [2.0]]})
    with pytest.raises(ValueError, match="at least 0"):
        _compare(scores, "s", "base", tie_threshold=threshold, confidence=0.95)


def test_compare_all_names_scorers_that_it_cannot_compare() -> None:
    good = columns("good", {role: [[1.0], [2.0]] for role in ("candidate", "champion", "base")})
    bad = columns("bad", {role: [[1.0], [math.nan]] for role in ("candidate", "champion")})
    scores = ScoreTable.from_columns({name: good[name] + bad[name] for name in SCORE_COLUMNS})
    comparisons, problems = compare_all(scores, ["good", "bad"], tie_thresholds={}, confidence=0.95)
    assert [(c.scorer, c.against) for c in comparisons] == [("good", "champion"), ("good", "base")]
    assert len(problems) == 2
    assert "not finite" in problems[0]
    assert "bad against the base" in problems[1]


def test_grid_is_sorted_by_prompt_and_seed() -> None:
    plain = {"role": ["base"] * 4, "scorer": ["s"] * 4, "prompt_index": [1, 0, 1, 0], "seed": [9, 9, 3, 3]}
    grid = seed_grid(ScoreTable.from_columns({**plain, "score": [4.0, 2.0, 3.0, 1.0]}), "s", "base")
    assert grid.scores_NS.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_identical_models_give_a_certain_zero_and_no_evidence() -> None:
    same = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    found = _compare(
        table("s", {"candidate": same, "champion": same}), "s", "champion", tie_threshold=0.0, confidence=0.95
    )
    assert (found.ties, found.win_rate, found.p_value) == (3, 0.5, 1.0)
    assert found.win_rate_low < 0.5 < found.win_rate_high
    assert (found.mean_difference_low, found.mean_difference_high) == (0.0, 0.0)


def test_a_few_wins_among_ties_are_no_evidence() -> None:
    assert win_rate_interval(4, 96, 0, confidence=0.95)[0] < 0.5
    assert win_rate_interval(12, 88, 0, confidence=0.95)[0] > 0.5


def test_interval_stays_within_zero_and_one_and_does_not_collapse() -> None:
    low, high = win_rate_interval(50, 0, 0, confidence=0.95)
    assert 0.9 < low < 0.95
    assert high == 1.0
    assert win_rate_interval(0, 0, 50, confidence=0.95) == pytest.approx((0.0, 1 - low))


def exact_coverage(prompts: int, *, tie_share: float, rate: float, confidence: float) -> tuple[float, float]:
    """Two-sided coverage and the chance that the lower bound lies above the truth, summed over all outcomes."""
    win_share = rate - tie_share / 2
    shares = (win_share, tie_share, 1 - win_share - tie_share)
    log_factorial = [math.lgamma(k + 1) for k in range(prompts + 1)]
    covered = above = 0.0
    for wins in range(prompts + 1):
        for ties in range(prompts - wins + 1):
            counts = (wins, ties, prompts - wins - ties)
            if any(share == 0 and count for share, count in zip(shares, counts, strict=True)):
                continue
            log_p = log_factorial[prompts] + sum(
                count * math.log(share) - log_factorial[count]
                for share, count in zip(shares, counts, strict=True)
                if count
            )
            low, high = win_rate_interval(*counts, confidence=confidence)
            covered += math.exp(log_p) * (low <= rate <= high)
            above += math.exp(log_p) * (low > rate)
    return covered, above


@pytest.mark.parametrize("prompts", [40, 120])
@pytest.mark.parametrize("tie_share", [0.0, 0.3, 0.6, 0.9])
def test_win_rate_interval_covers_the_truth(prompts: int, tie_share: float) -> None:
    """Summed over all outcomes, not sampled: 95 % and 2.5 % except for the small wobble of every score interval."""
    rates = [rate for rate in (0.5, 0.53, 0.65) if rate < 1 - tie_share / 2]
    for rate in rates:
        covered, above = exact_coverage(prompts, tie_share=tie_share, rate=rate, confidence=0.95)
        assert covered > 0.93, rate
        assert above < 0.031, rate


def test_ties_narrow_the_interval() -> None:
    plain, tied = (win_rate_interval(*counts, confidence=0.95) for counts in ((110, 0, 90), (60, 100, 40)))
    assert tied[1] - tied[0] < 0.75 * (plain[1] - plain[0])


def test_prompt_means_keep_their_coverage_where_pooled_cells_lose_it() -> None:
    """Seeds of one prompt move together: intervals on prompt means hold 95 %, pooled cells fall far below."""
    rng = np.random.default_rng(11)
    prompts, seeds, runs = 80, 4, 600
    by_prompt = pooled = 0
    for _ in range(runs):
        shared = rng.normal(0, 1, (prompts, 1))
        cells = shared + rng.normal(0, 0.8, (prompts, seeds))
        low, high = mean_interval(cells.mean(axis=1), confidence=0.95)
        by_prompt += low <= 0 <= high
        low, high = mean_interval(cells.ravel(), confidence=0.95)
        pooled += low <= 0 <= high
    assert by_prompt / runs > 0.93
    assert pooled / runs < 0.85


def test_p_value_looks_for_a_gain_only() -> None:
    gains = np.linspace(0.1, 2.0, 20)
    assert superiority_p_value(gains) < 1e-4
    assert superiority_p_value(-gains) > 0.999


def test_mean_interval_needs_two_prompts() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(np.array([1.0]), confidence=0.95)


def grouped(scores: list[float], groups: list[int], role: str = "candidate") -> ScoreTable:
    prompts = list(range(len(scores)))
    return ScoreTable.from_columns(
        {
            "role": [role] * len(scores),
            "scorer": ["j"] * len(scores),
            "prompt_index": prompts,
            "seed": [0] * len(scores),
            "score": scores,
            "group": groups,
        }
    )


def test_near_duplicates_are_averaged_and_count_once() -> None:
    grid = seed_grid(grouped([1.0, 5.0, 2.0, 7.0], [0, 1, 0, 1]), "j", "candidate")
    assert grid.first_prompts.tolist() == [0, 1]
    assert grid.prompt_means().tolist() == [1.5, 6.0]


def test_a_group_passes_when_all_its_images_do() -> None:
    grid = seed_grid(grouped([1.0, 5.0, 2.0, 7.0], [0, 1, 0, 1]), "j", "candidate")
    assert grid.passing(grid.scores_NS >= 2).tolist() == [False, True]


def test_models_with_other_groups_are_not_compared() -> None:
    one, other = grouped([1.0, 2.0], [0, 0]), grouped([1.0, 2.0], [0, 1], "champion")
    both = ScoreTable(*(np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(ScoreTable)))
    with pytest.raises(ValueError, match="differ"):
        paired_differences(both, "j", "champion")


def test_a_group_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        ScoreTable.from_columns(
            {"role": ["a"], "scorer": ["j"], "prompt_index": [0], "seed": [0], "score": [1.0], "group": []}
        )
