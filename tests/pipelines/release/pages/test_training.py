"""The run in words: curves in order, thinned by means; the recipe with its paper."""

import math

import pytest

from alignment.config import load_recipe
from alignment.contracts.jobs import MetricsLine
from pipelines.release.pages.curve_plot import plot_curves
from pipelines.release.pages.training import chosen_warning, curves, norm_note, recipe_facts, thinned


def line(step: int, **metrics: float) -> MetricsLine:
    return MetricsLine(step=step, unix_seconds=0.0, metrics=metrics)


def test_curves_come_in_order_without_what_is_not_finite() -> None:
    found = curves([line(1, zeta=1.0, loss=3.0), line(2, alpha=2.0, loss=math.nan), line(3, loss=1.0)])
    assert list(found) == ["loss", "alpha", "zeta"]
    assert found["loss"] == [(1.0, 3.0), (3.0, 1.0)]
    assert curves([line(1, loss=math.nan)]) == {}


def test_runs_of_before_show_their_accuracy_and_online_ones_their_gain() -> None:
    online = [line(1, residual=2.0, loss=4.0, reward=1.0), line(2, loss=4.0, reward=1.0, residual=2.0, reward_gain=0.1)]
    assert list(curves(online)) == ["loss", "reward_gain", "residual", "reward"]
    assert curves(online)["reward_gain"] == [(2.0, 0.1)]
    assert list(curves([line(1, alpha=2.0, implicit_accuracy=0.5)])) == ["implicit_accuracy", "alpha"]


def test_a_run_whose_chosen_images_got_worse_has_a_warning() -> None:
    worse = [line(step, chosen_error_minus_reference=1e-3, chosen_worse_steps=step) for step in range(1, 26)]
    better = [line(step, chosen_error_minus_reference=-1e-3, chosen_worse_steps=0) for step in range(26, 61)]
    warning = chosen_warning([*worse, *better])
    assert "in 25 of 60 logged steps, 25 of them in a row" in warning
    assert chosen_warning([*worse[:19], *better]) == ""
    assert chosen_warning([line(1, loss=1.0)]) == chosen_warning([]) == ""


def test_the_norm_of_the_predictions_is_a_sentence_and_no_curve() -> None:
    last = line(2, loss=0.5, **{f"prediction_norm_ratio/{number}": 1 + number / 100 for number in range(4)})
    assert norm_note([line(1, loss=1.0), last]).endswith("to the most: 1.000, 1.010, 1.020, 1.030.")
    assert norm_note([line(1, loss=1.0)]) == norm_note([]) == ""
    assert list(curves([line(1, loss=1.0), last])) == ["loss"]


def test_thinning_takes_means_of_neighbours() -> None:
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0), (4.0, 9.0)]
    assert thinned(points, 3) == [(0.5, 2.0), (2.5, 6.0), (4.0, 9.0)]
    assert thinned(points, 5) == points


@pytest.mark.parametrize(
    ("recipe", "method"),
    [("diffusion_dpo_shapes", "Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)"), ("mapo_shapes", "MaPO (Hong")],
)
def test_a_recipe_is_shown_with_its_paper(recipe: str, method: str) -> None:
    facts = dict(recipe_facts(load_recipe(recipe)))
    assert facts["method"].startswith(method)
    assert facts["recipe"] == recipe
    assert "beta" in facts["settings"]
    assert "labels" not in facts
    flipped = load_recipe(recipe).model_copy(update={"flip_labels": True})
    assert dict(recipe_facts(flipped))["labels"] == "flipped, to test the gate"


def test_the_drawing_names_each_curve_and_is_the_same_twice() -> None:
    found = {"loss": [(0.0, 1.0), (1.0, 0.5)], "grad_norm": [(0.0, 2.0)]}
    svg = plot_curves(found)
    assert svg == plot_curves(found)
    assert ">loss</text>" in svg.decode()
    assert ">grad norm</text>" in svg.decode()
    assert "$" not in svg.decode()
