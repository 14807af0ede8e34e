"""Divergence: values that stop a run, and values that do not."""

import math

import pytest
import torch

from alignment.catalogues.optimisers import DivergenceGuard
from alignment.contracts.jobs import JobStoppedError
from alignment.training.divergence import ChosenWatch, DivergenceWatch, check_weights

GUARD = DivergenceGuard(spike_factor=10.0, window_steps=20, patience_steps=3)


def feed(watch: DivergenceWatch, losses: list[float], first: int = 1) -> None:
    for step, loss in enumerate(losses, start=first):
        watch.observe(step, loss, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_anything_not_finite_stops_at_once(loss: float, norm: float) -> None:
    with pytest.raises(JobStoppedError, match="not both finite") as stopped:
        DivergenceWatch(GUARD).observe(7, loss, norm)
    assert stopped.value.kind == "diverged"
    assert stopped.value.step == 6, "the step itself was not finished"


def test_lasting_spikes_stop_a_run_and_brief_ones_do_not() -> None:
    watch = DivergenceWatch(GUARD)
    feed(watch, [1.0] * 10 + [11.0, 11.0, 1.0, 11.0, 11.0, 9.0])
    with pytest.raises(JobStoppedError, match="3 steps in a row"):
        feed(watch, [30.0] * 3, first=17)


def test_no_step_is_checked_before_there_is_a_median() -> None:
    feed(DivergenceWatch(GUARD), [1.0, 100.0, 1000.0])


def test_a_median_of_zero_does_not_count_as_a_scale() -> None:
    feed(DivergenceWatch(GUARD), [0.0] * 10 + [5.0] * 6)


def test_a_restored_watch_continues_counting() -> None:
    watch = DivergenceWatch(GUARD)
    feed(watch, [1.0] * 10 + [11.0, 11.0])
    restored = DivergenceWatch(GUARD, tuple(watch.losses), watch.spikes)
    with pytest.raises(JobStoppedError):
        restored.observe(13, 11.0, 1.0)


def test_weights_that_are_not_finite_after_the_last_step_are_named() -> None:
    weights = [("good", torch.ones(2)), ("bad.weight", torch.tensor([1.0, float("nan")]))]
    check_weights(weights[:1], 60)
    with pytest.raises(JobStoppedError, match=r"diverged at step 60: weight bad\.weight has values") as stopped:
        check_weights(weights, 60)
    assert (stopped.value.kind, stopped.value.step) == ("diverged", 59)


def test_steps_in_a_row_with_worse_chosen_images_are_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = ChosenWatch()
    rises = [1e-4, 0.0, -1e-4] + [1e-4] * 25
    counts = [watch.observe({"chosen_error_minus_reference": rise})["chosen_worse_steps"] for rise in rises]
    assert counts == [1, 0, 0, *range(1, 26)]
    (line,) = caplog.messages
    assert "predicted worse than by the base for 20 steps in a row" in line


def test_an_objective_without_a_reference_has_no_such_count() -> None:
    assert ChosenWatch().observe({"loss": 1.0}) == {}


def test_the_count_continues_from_a_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    assert ChosenWatch(19).observe({"chosen_error_minus_reference": 1.0}) == {"chosen_worse_steps": 20.0}
    assert len(caplog.messages) == 1
