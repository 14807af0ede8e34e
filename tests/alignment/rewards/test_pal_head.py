"""PAL's mathematics against values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from alignment.contracts.reward_models import Bound, BradleyTerry, Comparison, Head, PalA, PalB, Projector
from alignment.rewards.pal_head import (
    IdealPoints,
    PreferenceHead,
    _nearness,
    _ProjectorNetwork,
    _PromptPoints,
    bound_penalty,
    link_loss,
)

PLAIN = Projector(num_hidden_layers=1, dropout=0.0, residual=False)


def identity(network: _ProjectorNetwork, times: float = 1.0) -> None:
    """Set a projector's weights so that it multiplies positive inputs by `times`."""
    with torch.no_grad():
        for layer in [*network.hidden, network.output]:
            assert isinstance(layer, torch.nn.Linear)
            layer.weight.copy_(torch.eye(layer.in_features))
            layer.bias.zero_()
        network.output.weight.mul_(times)


def head_of(params: Head, logits_UK: list[list[float]]) -> PreferenceHead:
    """A head on two-dimensional embeddings whose projectors are the identity; PAL-B's second projector doubles."""
    head = PreferenceHead(params, 2, 2, num_users=len(logits_UK))
    identity(head.items)
    with torch.no_grad():
        head.user_logits_UK.copy_(torch.tensor(logits_UK))
        if isinstance(head.points, IdealPoints):
            head.points.prototypes_KD.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    if isinstance(head.points, _PromptPoints):
        for index, prototype in enumerate(head.points.prototypes):
            assert isinstance(prototype, _ProjectorNetwork)
            identity(prototype, times=1.0 + index)
    return head.eval()


def test_mixture_is_the_softmax_of_the_users_logits() -> None:
    head = head_of(PalA(projector=PLAIN, temperature=2.0), [[0.0, 0.0], [2 * math.log(3), 0.0]])
    torch.testing.assert_close(head.mixture(torch.tensor([1, 0])), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


@pytest.mark.parametrize("ideal_point", ["Pw", "f(Pw)", "f(P)w"])
def test_pal_a_point_is_the_mixed_prototype_and_scores_are_minus_distances(ideal_point: str) -> None:
    head = head_of(PalA.model_validate({"projector": PLAIN, "ideal_point": ideal_point}), [[math.log(3), 0.0]])
    point_BD = head.points_of(head.mixture(torch.tensor([0])), torch.tensor([[9.0, 9.0]]))
    torch.testing.assert_close(point_BD, torch.tensor([[0.75, 0.25]]))
    scores_B = head.scores(torch.tensor([[0.75, 0.25], [3.75, 4.25]]), point_BD.expand(2, -1))
    torch.testing.assert_close(scores_B, torch.tensor([0.0, -5.0]))


def test_mixing_before_or_after_a_nonlinear_projector_differs() -> None:
    """f(x) = relu(x - 1/2): f of the mean of (1, 0) and (0, 1) is 0, the mean of their f is 1/4 each."""
    points = {}
    for ideal_point in ("f(Pw)", "f(P)w"):
        head = head_of(PalA.model_validate({"projector": PLAIN, "ideal_point": ideal_point}), [[0.0, 0.0]])
        with torch.no_grad():
            head.items.hidden[0].bias.fill_(-0.5)  # type: ignore[union-attr, operator]
        points[ideal_point] = head.points_of(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
    torch.testing.assert_close(points["f(Pw)"], torch.zeros(1, 2))
    torch.testing.assert_close(points["f(P)w"], torch.tensor([[0.25, 0.25]]))


def test_pal_b_point_mixes_views_of_the_prompt_and_scores_are_scaled_cosines() -> None:
    head = head_of(PalB(projector=PLAIN), [[math.log(3), 0.0]])
    point_BD = head.points_of(head.mixture(torch.tensor([0])), torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(point_BD, 1.25 * torch.tensor([[3.0, 4.0]]))
    score = head.scores(torch.tensor([[1.0, 0.0]]), point_BD)
    torch.testing.assert_close(score, torch.tensor([0.6 / 0.07]))
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    torch.testing.assert_close(head.scores(torch.tensor([[1.0, 0.0]]), point_BD), torch.tensor([60.0]))


def test_bradley_terry_has_one_prototype_for_all_users() -> None:
    head = head_of(BradleyTerry(projector=PLAIN), [[5.0], [-5.0]])
    torch.testing.assert_close(head.mixture(torch.tensor([0, 1])), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("comparison", "expected"), [("distance", -math.sqrt(13)), ("unit_distance", -math.sqrt(2)), ("angle", 0.0)]
)
def test_nearness(comparison: Comparison, expected: float) -> None:
    near = _nearness(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0]), comparison)
    assert near.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("comparison", ["distance", "unit_distance", "angle"])
@pytest.mark.parametrize("link", ["hinge", "logistic", "cross_entropy"])
@pytest.mark.parametrize("kind", [PalA, PalB])
def test_a_descent_step_moves_the_chosen_nearer_and_the_rejected_farther(
    kind: type[PalA] | type[PalB], comparison: str, link: str
) -> None:
    """Also for distances under cross-entropy, where the authors' sign makes the farther item win."""
    torch.manual_seed(0)
    params = kind.model_validate({"projector": PLAIN, "comparison": comparison, "link": link})
    head = head_of(params, [[0.1, -0.2]])
    point_BD = head.points_of(head.mixture(torch.tensor([0])), torch.tensor([[0.6, 0.8]])).detach()
    chosen, rejected = (torch.tensor([[0.9, 0.3]], requires_grad=True) for _ in range(2))
    link_loss(head.scores(chosen, point_BD) - head.scores(rejected, point_BD), params.link).mean().backward()

    def moved(image: Tensor) -> float:
        assert image.grad is not None
        with torch.no_grad():
            return (head.scores(image - 1e-3 * image.grad, point_BD) - head.scores(image, point_BD)).item()

    assert moved(chosen) > 0
    assert moved(rejected) < 0


def test_links_at_zero_margin_and_their_slopes() -> None:
    margin_B = torch.tensor([0.0, 2.0, -1.0])
    torch.testing.assert_close(link_loss(margin_B, "hinge"), torch.tensor([1.0, 0.0, 2.0]))
    torch.testing.assert_close(link_loss(margin_B, "cross_entropy"), torch.log1p(torch.exp(-margin_B)))
    torch.testing.assert_close(link_loss(margin_B, "logistic"), torch.log1p(torch.exp(-margin_B)))


def test_only_cross_entropy_multiplies_scores_by_the_learnt_scale() -> None:
    image, point = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    scores = {
        link: head_of(PalB.model_validate({"projector": PLAIN, "link": link}), [[0.0, 0.0]]).scores(image, point).item()
        for link in ("hinge", "logistic", "cross_entropy")
    }
    assert scores == pytest.approx({"hinge": 0.6, "logistic": 0.6, "cross_entropy": 0.6 / 0.07})


def test_bound_sums_the_excess_over_the_batch() -> None:
    points_BD = torch.tensor([[3.0, 4.0], [0.0, 6.0], [1.0, 0.0]])
    assert bound_penalty(points_BD, Bound(upper=4.0, weight=2.0)).item() == pytest.approx(2 * (1 + 2))
    assert bound_penalty(points_BD, None).item() == 0


def test_residual_adds_the_input_and_refuses_another_width() -> None:
    network = _ProjectorNetwork(Projector(num_hidden_layers=1, dropout=0.0), 2, 2)
    identity(network)
    torch.testing.assert_close(network(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 4.0]))
    with pytest.raises(ValueError, match=r"embeddings are 3 wide and the preference space 2\. Remove the head's width"):
        _ProjectorNetwork(Projector(), 3, 2)


def test_a_projector_may_be_linear_have_no_bias_and_no_hidden_layer() -> None:
    params = Projector(num_hidden_layers=1, activation="linear", dropout=0.0, residual=False, bias=False)
    network = _ProjectorNetwork(params, 3, 2)
    assert [name for name, _ in network.named_parameters()] == ["hidden.0.weight", "output.weight"]
    first, last = (layer.weight for layer in [*network.hidden, network.output])
    inputs_BD = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, -3.0]])
    torch.testing.assert_close(network(inputs_BD), inputs_BD @ (last @ first).T)
    single = _ProjectorNetwork(params.model_copy(update={"num_hidden_layers": 0}), 3, 2)
    torch.testing.assert_close(single(inputs_BD), inputs_BD @ single.output.weight.T)


def test_dropout_is_before_the_activation_and_only_in_training() -> None:
    network = _ProjectorNetwork(Projector(dropout=0.5), 8, 8)
    inputs = torch.ones(4, 8)
    assert not torch.equal(network(inputs), network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))
    assert len(network.hidden) == 2
