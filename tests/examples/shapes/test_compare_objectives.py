"""The comparison of objectives: wins, pooled runs, finished runs, and a run through the real jobs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from alignment.config import load_recipe


@pytest.fixture(scope="module")
def comparison(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("compare_objectives")


def line(
    comparison: ModuleType, name: str, oracle: list[float], *, seed: int = 7, seeds: tuple[int, ...] = (0,)
) -> object:
    recipe = ""
    if name in comparison.EXPERIMENTS:
        experiment = comparison.EXPERIMENTS[name]
        recipe = load_recipe(experiment.recipe, (*experiment.overrides, f"seed={seed}")).digest
    judges = dict.fromkeys(comparison.SCORERS, oracle)
    return comparison.Line(
        name=name,
        seed=seed,
        recipe=recipe,
        steps=100,
        cpu_seconds=10.0,
        weights_digest="0" * 64,
        evaluation_seeds=seeds,
        scores={"oracle": oracle, "judges": judges, "style_distance": [0.5] * len(oracle)},
        notes={},
    )


def test_a_draw_counts_half(comparison: ModuleType) -> None:
    assert comparison.won([1.0, 2.0, 3.0], [0.0, 2.0, 4.0]).tolist() == [1.0, 0.5, 0.0]


def test_seeds_of_a_prompt_are_averaged_before_they_are_compared(comparison: ModuleType) -> None:
    base = line(comparison, "base", [0.0, 0.0, 0.0, 0.0], seeds=(0, 1))
    ours = line(comparison, "dpo", [3.0, -1.0, -3.0, 1.0], seeds=(0, 1))
    assert comparison.pooled([ours], base, "oracle").tolist() == [1.0, 0.0]
    other = line(comparison, "dpo", [1.0, 1.0, 1.0, 1.0], seed=8, seeds=(0, 1))
    assert comparison.pooled([ours, other], base, "oracle").tolist() == [1.0, 0.5], "a share of runs for each prompt"


def test_a_gain_is_the_mean_difference_of_scores(comparison: ModuleType) -> None:
    base = line(comparison, "base", [0.0, 1.0, 1.0, 1.0], seeds=(0, 1))
    runs = [line(comparison, "dpo", [2.0, 1.0, 0.0, 0.5], seeds=(0, 1))]
    assert comparison.gains(runs, base, "oracle").tolist() == [1.0, -0.75]
    runs.append(line(comparison, "dpo", [0.0, 1.0, 1.0, 1.0], seed=8, seeds=(0, 1)))
    assert comparison.gains(runs, base, "oracle").tolist() == [0.5, -0.375]


def test_the_interval_is_that_of_a_mean_over_prompts(comparison: ModuleType) -> None:
    values = np.asarray([1.0] * 80 + [0.0] * 20)
    low, high = comparison.interval(values)
    assert low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.012)
    assert high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.012)
    assert comparison.interval(np.ones(5)) == (1.0, 1.0)


def test_the_table_has_a_row_per_finished_run(comparison: ModuleType) -> None:
    base = line(comparison, "base", [0.0] * 4)
    runs = [line(comparison, "dpo", [1.0, 1.0, 1.0, -1.0]), line(comparison, "dpo", [1.0] * 4, seed=8)]
    text = comparison.table([base, *runs])
    (row,) = [row for row in text.splitlines() if row.startswith("| dpo ")]
    assert "0.75" in row
    assert "0.875" in row
    assert "+0.750 (" in row, "the mean gain of both seeds"
    assert len(row.split("|")) == len(text.splitlines()[0].split("|"))
    assert comparison.table([]) == "No run has finished yet."


def test_runs_of_an_older_recipe_or_other_seeds_are_not_in_the_table(comparison: ModuleType, tmp_path: Path) -> None:
    good = line(comparison, "dpo", [1.0])
    stale = replace(line(comparison, "sft", [1.0]), recipe="f" * 64)
    others = line(comparison, "mapo", [1.0, 1.0], seeds=(0, 1))
    rows = [json.dumps(comparison.asdict(found)) for found in (good, stale, others)]
    (tmp_path / "results.jsonl").write_text("\n".join(rows) + "\n")
    assert comparison.Comparison(tmp_path, (0,)).lines() == [good]


def test_trials_never_see_a_held_out_prompt(comparison: ModuleType, tmp_path: Path) -> None:
    found = comparison.Comparison(tmp_path, (0,))
    prompts = found.trial_prompts()
    assert len(set(prompts)) == comparison.TRIAL_PROMPTS
    assert not set(prompts) & set(found.heldout)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what great_expectations imports
def test_a_run_uses_the_real_jobs_and_is_reused(
    comparison: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of two pairs and four prompts: a test of the path, not of the figures."""
    short = comparison.Experiment("diffusion_dpo_shapes", overrides=("steps=2", "global_batch=2"))
    monkeypatch.setattr(comparison, "EXPERIMENTS", {"dpo": short})
    found = comparison.Comparison(tmp_path, (0,))
    found.heldout = found.heldout[:4]
    found.run(["dpo"], [7])
    base, run = found.lines()
    assert (base.name, run.name, run.steps) == ("base", "dpo", 2)
    assert len(run.scores["oracle"]) == len(run.scores["judges"]["taste_a"]) == 4
    assert run.scores["oracle"] != base.scores["oracle"]
    monkeypatch.setattr(found.lab, "train", lambda spec: pytest.fail("it was finished already"))
    found.run(["dpo"], [7])
    assert len(found.lines()) == 2
