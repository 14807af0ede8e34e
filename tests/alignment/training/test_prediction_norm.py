"""The ratio of the policy's to the base's prediction norm, with known values."""

import pytest
import torch

from alignment.contracts.jobs import norm_ratios
from alignment.training.prediction_norm import fixed_visits, norm_metrics, prediction_norms


def test_ratio_by_bin_is_that_of_the_mean_norms() -> None:
    """Latents of eight timesteps; the policy is the base times 1, 2, 3, 4 in the four bins of two latents."""
    base_BCHW = torch.arange(1.0, 9.0).reshape(8, 1, 1, 1).expand(8, 2, 3, 3)
    factors_B = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    timesteps_B = torch.arange(0, 800, 100)
    order_B = torch.tensor([5, 0, 3, 7, 1, 6, 2, 4])
    policy_BCHW = base_BCHW * factors_B.reshape(8, 1, 1, 1)
    halves = [
        prediction_norms(policy_BCHW[half_B], base_BCHW[half_B], timesteps_B[half_B]) for half_B in order_B.split(5)
    ]
    assert norm_ratios(norm_metrics(halves)) == pytest.approx((1, 2, 3, 4))


def test_a_norm_is_a_root_mean_square_so_sizes_of_latents_count_alike() -> None:
    norms = prediction_norms(torch.full((1, 4, 8, 8), -3.0), torch.full((1, 4, 2, 2), 3.0), torch.zeros(1))
    assert norms.policy_B.tolist() == norms.reference_B.tolist() == [3.0]


def test_the_mean_is_of_norms_not_of_squares() -> None:
    """Norms 1 and 3 against 2 and 2: the means of the norms are equal, the means of the squares are 5 and 4."""
    policy_BCHW = torch.tensor([1.0, 3.0]).repeat(4).reshape(8, 1, 1, 1)
    norms = prediction_norms(policy_BCHW, torch.full((8, 1, 1, 1), 2.0), torch.arange(8))
    assert norm_ratios(norm_metrics([norms])) == (1, 1, 1, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_give_no_metric(value: float) -> None:
    policy_BCHW = torch.ones(8, 1, 1, 1)
    policy_BCHW[3] = value
    assert norm_metrics([prediction_norms(policy_BCHW, torch.ones(8, 1, 1, 1), torch.arange(8))]) == {}


@pytest.mark.parametrize("num_pairs", [1, 5, 32, 1000])
def test_the_visits_spread_over_a_cache_and_are_of_no_epoch(num_pairs: int) -> None:
    visits = fixed_visits(num_pairs)
    pairs = [visit.pair for visit in visits]
    assert pairs == sorted(pairs)
    assert (min(pairs), max(pairs) < num_pairs, len({*pairs})) == (0, True, min(num_pairs, 32))
    assert all(visit.epoch < 0 for visit in visits)
    assert len({visit.epoch for visit in visits}) == 32
