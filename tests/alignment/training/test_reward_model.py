"""Training of preference heads: learned tastes, untouched state, and reproducibility."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from alignment.contracts.jobs import JobStoppedError
from alignment.contracts.reward_models import (
    BradleyTerry,
    FewShot,
    HeadOptimiser,
    PalA,
    PalB,
    Projector,
    RewardRecipe,
)
from alignment.evaluation.reward_accuracy import _first_labels
from alignment.rewards.pal_head import PreferenceHead
from alignment.training.reward_model import (
    PreferencePairs,
    TrainedHead,
    _build_head_optimiser,
    _check_pairs,
    _objective,
    build_head,
    fit_new_users,
    margins,
    new_users_head,
    pair_accuracy,
    start_logits,
    train_head,
)

WIDTH = 6
FAST = HeadOptimiser(projector_learning_rate=1e-2, user_learning_rate=1e-1, scale_learning_rate=1e-2)
CALM = Projector(dropout=0.0)
"""Six dimensions are too few to drop half of them."""


def camps(num_pairs: int, num_users: int, seed: int) -> PreferencePairs:
    """Users of even number like the first coordinate of an image, users of odd number dislike it; prompts are alike."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(2, num_pairs, WIDTH, generator=generator), dim=-1)
    prompts = torch.nn.functional.normalize(
        torch.eye(WIDTH)[1] + 0.2 * torch.randn(num_pairs, WIDTH, generator=generator), dim=-1
    )
    users = torch.randint(num_users, (num_pairs,), generator=generator)
    likes = torch.where(users % 2 == 0, 1.0, -1.0)
    first_wins = (likes * (images[0, :, 0] - images[1, :, 0]) > 0).unsqueeze(1)
    return PreferencePairs(
        torch.where(first_wins, images[0], images[1]), torch.where(first_wins, images[1], images[0]), prompts, users
    )


def recipe(head: PalA | PalB | BradleyTerry, **changes: Any) -> RewardRecipe:
    fields = {"name": "camps", "head": head, "optimiser": FAST, "global_batch": 64, "steps": 150, "seed": 4}
    return RewardRecipe.model_validate(fields | changes)


def trained(params: PalA | PalB | BradleyTerry, **changes: Any) -> TrainedHead:
    pairs, settings = camps(600, 8, seed=1), recipe(params, **changes)
    head = build_head(params, pairs, num_users=8, seed=settings.seed)
    return train_head(head, pairs, camps(100, 8, seed=2), recipe=settings, on_step=lambda _, __: None)


def accuracy(head: PreferenceHead, pairs: PreferencePairs) -> float:
    return pair_accuracy(margins(head, pairs)[0])


@pytest.fixture(scope="module")
def pal() -> PreferenceHead:
    return trained(PalB(projector=CALM)).head


@pytest.fixture(scope="module")
def trained_heads(pal: PreferenceHead) -> dict[str, PreferenceHead]:
    return {"pal_a": trained(PalA(projector=CALM)).head, "pal_b": pal}


@pytest.mark.parametrize("params", [PalA(projector=CALM), PalB(projector=CALM)], ids=lambda params: params.kind)
def test_pal_learns_two_camps_where_a_single_preference_is_at_chance(params: PalA | PalB) -> None:
    tests = camps(400, 8, seed=3)
    assert accuracy(trained(params).head, tests) > 0.85
    assert abs(accuracy(trained(BradleyTerry(projector=CALM)).head, tests) - 0.5) < 0.1


def test_a_single_preference_is_enough_for_one_camp() -> None:
    pairs, settings = camps(600, 1, seed=1), recipe(BradleyTerry(projector=CALM))
    head = build_head(settings.head, pairs, num_users=1, seed=4)
    fitted = train_head(head, pairs, camps(100, 1, seed=2), recipe=settings, on_step=lambda _, __: None)
    assert accuracy(fitted.head, camps(400, 1, seed=3)) > 0.85


def test_users_of_one_camp_end_with_similar_mixtures(pal: PreferenceHead) -> None:
    mixture_UK = pal.mixture(torch.arange(8)).detach()
    sides = (mixture_UK[:, 0] > 0.5).tolist()
    assert sides[0::2] == [sides[0]] * 4
    assert sides[1::2] == [not sides[0]] * 4


def test_same_seed_same_weights_and_another_seed_others() -> None:
    first, again, other = (trained(PalB(), steps=5, seed=seed).head.state_dict() for seed in (4, 4, 5))
    torch.rand(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_given_head_and_the_global_generator_alone() -> None:
    pairs, settings = camps(50, 4, seed=1), recipe(PalB(), steps=3)
    head = build_head(settings.head, pairs, num_users=4, seed=1)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    state = torch.get_rng_state()
    train_head(head, pairs, pairs.take(torch.arange(0)), recipe=settings, on_step=lambda _, __: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_step_with_the_lowest_validation_loss_is_kept() -> None:
    pairs, settings = camps(60, 4, seed=1), recipe(PalB(), steps=40, validate_every_steps=5)
    flipped = PreferencePairs(pairs.rejected_ND, pairs.chosen_ND, pairs.prompts_ND, pairs.users_N)
    seen: dict[int, float] = {}

    def note(step: int, metrics: dict[str, float]) -> None:
        if "validation_loss" in metrics:
            seen[step] = metrics["validation_loss"]

    head = build_head(settings.head, pairs, num_users=4, seed=1)
    kept = train_head(head, pairs, flipped, recipe=settings, on_step=note)
    assert list(seen) == list(range(5, 41, 5))
    assert kept.best_step == min(seen, key=lambda step: seen[step]) < 40
    assert not kept.head.training


def test_objective_adds_the_bound_and_reports_it_separately() -> None:
    pairs = camps(20, 4, seed=1)
    loose, tight = (PalB.model_validate({"bound": {"upper": upper}}) for upper in (50.0, 0.1))
    heads = [build_head(params, pairs, num_users=4, seed=1).eval() for params in (loose, tight)]
    (free, _), (bound, monitors) = (_objective(head, pairs) for head in heads)
    _, points_BD = margins(heads[1], pairs)
    excess = (points_BD.norm(dim=-1) - 0.1).sum()
    torch.testing.assert_close(bound - free, excess)
    assert monitors["bound"] == pytest.approx(excess.item())
    assert monitors["loss"] == pytest.approx(free.item())


def test_a_users_margin_is_negated_by_swapping_and_zero_for_equal_images() -> None:
    pairs = camps(20, 4, seed=1)
    head = build_head(PalB(), pairs, num_users=4, seed=1).eval()
    swapped = PreferencePairs(pairs.rejected_ND, pairs.chosen_ND, pairs.prompts_ND, pairs.users_N)
    torch.testing.assert_close(margins(head, pairs)[0], -margins(head, swapped)[0])
    same = PreferencePairs(pairs.chosen_ND, pairs.chosen_ND, pairs.prompts_ND, pairs.users_N)
    assert _objective(head, same)[1] == pytest.approx({"loss": math.log(2), "bound": 0, "accuracy": 0.5, "margin": 0})


def test_every_weight_is_in_one_group_and_only_projectors_decay() -> None:
    for params in (PalA(), PalB()):
        head = build_head(params, camps(5, 2, seed=1), num_users=2, seed=1)
        groups = _build_head_optimiser(head, HeadOptimiser()).param_groups
        assert [group["lr"] for group in groups] == [1e-4, 5e-3, 0.1]
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.0]
        members = [id(weight) for group in groups for weight in group["params"]]
        assert sorted(members) == sorted(id(weight) for weight in head.parameters())


# --- new users --------------------------------------------------------------------------------------------------------


def fit(head: PreferenceHead, labels: PreferencePairs, start_UK: Tensor, **changes: Any) -> PreferenceHead:
    params = FewShot.model_validate({"learning_rate": 0.2} | changes)
    return fit_new_users(head, labels, start_UK, params=params, seed=1, on_step=lambda _, __: None)


def test_a_few_labels_assign_new_users_to_their_camps(pal: PreferenceHead) -> None:
    tests = camps(400, 2, seed=7)
    start_UK = start_logits(pal, 2, FewShot(), seed=1)
    fitted = fit(pal, camps(20, 2, seed=6), start_UK)
    assert accuracy(fitted, tests) > 0.85
    assert accuracy(fit(pal, camps(20, 2, seed=6), start_UK, epochs=1, learning_rate=1e-9), tests) < 0.65


@pytest.mark.parametrize("kind", ["pal_a", "pal_b"])
@pytest.mark.parametrize("num_labels", [5, 20, 100])
def test_shipped_settings_place_two_opposed_new_users(
    trained_heads: dict[str, PreferenceHead], kind: str, num_labels: int
) -> None:
    head, tests = trained_heads[kind], camps(800, 2, seed=7)
    pool = camps(400, 2, seed=6)
    labels = pool.take(_first_labels(pool.users_N, num_labels, seed=1))
    start = start_logits(head, 2, FewShot(), seed=1)
    fitted = fit_new_users(head, labels, start, params=FewShot(), seed=1, on_step=lambda _, __: None)
    unplaced = new_users_head(head, start)
    assert accuracy(fitted, tests) > accuracy(unplaced, tests) + 0.3
    for user in (0, 1):
        own = tests.of_users(torch.tensor([user]))
        assert accuracy(fitted, own) > 0.85
    own_camp = fitted.mixture(torch.tensor([0, 1])).argmax(dim=1)
    assert own_camp.tolist() == head.mixture(torch.tensor([0, 1])).argmax(dim=1).tolist()


def test_fitting_moves_the_logits_of_labelled_users_and_nothing_else(pal: PreferenceHead) -> None:
    before = {name: tensor.clone() for name, tensor in pal.state_dict().items()}
    labels = camps(20, 2, seed=6).of_users(torch.tensor([1]))
    fitted = fit(pal, labels, torch.zeros(3, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in pal.state_dict().items())
    changed = [n for n, t in fitted.state_dict().items() if n == "user_logits_UK" or not torch.equal(t, before[n])]
    assert changed == ["user_logits_UK"]
    moved = fitted.user_logits_UK.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, False]


def test_new_users_start_even_or_at_random() -> None:
    head = build_head(PalB(num_prototypes=3), camps(5, 2, seed=1), num_users=2, seed=1)
    assert torch.equal(start_logits(head, 4, FewShot(), seed=1), torch.zeros(4, 3))
    drawn = start_logits(head, 4, FewShot(start="normal"), seed=1)
    assert torch.equal(drawn, start_logits(head, 4, FewShot(start="normal"), seed=1))
    assert drawn.std() > 0.3


# --- bad input --------------------------------------------------------------------------------------------------------


def test_embeddings_that_are_not_finite_are_refused() -> None:
    pairs = camps(5, 2, seed=1)
    pairs.rejected_ND[3, 0] = math.nan
    with pytest.raises(ValueError, match=r"1 of 5 embeddings in rejected_ND are not finite, the first in row 3"):
        _check_pairs(pairs)
    with pytest.raises(ValueError, match="no comparisons with a preference"):
        build_head(PalB(), pairs.take(torch.arange(0)), num_users=2, seed=1)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    pairs, settings = camps(50, 4, seed=1), recipe(PalB(), steps=3)
    head = build_head(settings.head, pairs, num_users=4, seed=1)
    with torch.no_grad():
        head.items.output.bias[0] = math.inf
    with pytest.raises(JobStoppedError, match="The loss is nan at step 0") as caught:
        train_head(head, pairs, pairs, recipe=settings, on_step=lambda _, __: None)
    assert caught.value.kind == "diverged"
