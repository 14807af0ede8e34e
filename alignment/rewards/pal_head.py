"""PAL's mathematics: the nearness of an image to a user's point, which is a mixture of prototypes.

B counts comparisons or images (any leading dimensions work), D embedding or preference width, K prototypes, U users.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment.contracts.reward_models import Bound, BradleyTerry, Comparison, Head, Link, PalA, PalB, Projector

MAX_SCALE = 100.0
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "linear": nn.Identity}
START_LOG_SCALE = math.log(1 / 0.07)


class _ProjectorNetwork(nn.Module):
    """Linear, dropout and activation, repeated; then a last linear layer. If residual, the input is added."""

    def __init__(self, params: Projector, width_in: int, width_out: int) -> None:
        super().__init__()
        if params.residual and width_in != width_out:
            raise ValueError(
                f"A residual projector needs equal widths, but embeddings are {width_in} wide and the preference space"
                f" {width_out}. Remove the head's width, or set projector.residual to false."
            )
        widths = [width_in, *[width_out] * params.num_hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=params.bias) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], width_out, bias=params.bias)
        self.dropout = nn.Dropout(params.dropout)
        self.residual = params.residual
        self.activation = ACTIVATIONS[params.activation]()

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """Map embeddings to points of the preference space."""
        states_BD = embeddings_BD
        for layer in self.hidden:
            states_BD = self.activation(self.dropout(layer(states_BD)))
        projected_BD: Tensor = self.output(states_BD)
        return projected_BD + embeddings_BD if self.residual else projected_BD


class IdealPoints(nn.Module):
    """PAL-A: prototypes P, mixed by a user's weights w, independent of the prompt."""

    def __init__(self, params: PalA, width_in: int, width_out: int) -> None:
        super().__init__()
        width = width_out if params.ideal_point == "Pw" else width_in
        # Unit length in expectation, like the embeddings that prototypes are compared with.
        self.prototypes_KD = nn.Parameter(torch.randn(params.num_prototypes, width) / math.sqrt(width))
        self._ideal_point = params.ideal_point

    def forward(self, weights_BK: Tensor, project: nn.Module) -> Tensor:
        """Return f(w P), w f(P) or w P; `project` is the items' f."""
        if self._ideal_point == "f(P)w":
            projected_BD: Tensor = weights_BK @ project(self.prototypes_KD)
            return projected_BD
        mixed_BD = weights_BK @ self.prototypes_KD
        return mixed_BD if self._ideal_point == "Pw" else project(mixed_BD)


class _PromptPoints(nn.Module):
    """PAL-B: z(c) = sum over k of w_k g_k(c), each prototype a projector g_k of the prompt's embedding c."""

    def __init__(self, params: PalB | BradleyTerry, width_in: int, width_out: int) -> None:
        super().__init__()
        self.prototypes = nn.ModuleList(
            _ProjectorNetwork(params.projector, width_in, width_out) for _ in range(params.num_prototypes)
        )

    def forward(self, weights_BK: Tensor, prompts_BD: Tensor) -> Tensor:
        """Return the users' points for these prompts."""
        views_BKD = torch.stack([prototype(prompts_BD) for prototype in self.prototypes], dim=-2)
        return (weights_BK.unsqueeze(-1) * views_BKD).sum(dim=-2)


class PreferenceHead(nn.Module):
    """Scores frozen image embeddings for users whose preference is a mixture of K prototypes.

    Source: Chen et al. 2024, arXiv:2406.08469, and the authors' code. Departures: distances enter cross-entropy with
    a minus sign, so the nearer item wins (their `dist_logistic` prefers the farther one). PAL-A shares a projector
    between items and users; here the optimiser updates it once per step (in their code it is registered twice and gets
    two updates per step).
    """

    def __init__(self, params: Head, image_width: int, text_width: int, num_users: int) -> None:
        super().__init__()
        self.params = params
        self.image_width, self.text_width = image_width, text_width
        width = params.width or image_width
        self.items = _ProjectorNetwork(params.projector, image_width, width)
        self.points: IdealPoints | _PromptPoints
        if isinstance(params, PalA):
            self.points = IdealPoints(params, image_width, width)
        else:
            self.points = _PromptPoints(params, text_width, width)
        self.log_scale = nn.Parameter(torch.tensor(START_LOG_SCALE))
        self.user_logits_UK = nn.Parameter(torch.randn(num_users, params.num_prototypes))

    def mixture(self, users_B: Tensor) -> Tensor:
        """Return the prototype weights of users: softmax of their logits divided by the temperature."""
        return torch.softmax(self.user_logits_UK[users_B] / self.params.temperature, dim=-1)

    def points_of(self, weights_BK: Tensor, prompts_BD: Tensor) -> Tensor:
        """Return the preferred points of users with these weights, for these prompts."""
        if isinstance(self.points, IdealPoints):
            point_BD: Tensor = self.points(weights_BK, self.items)
            return point_BD
        mixed_BD: Tensor = self.points(weights_BK, prompts_BD)
        return mixed_BD

    def scores(self, images_BD: Tensor, points_BD: Tensor) -> Tensor:
        """Return the scores of images: nearness to the points; only with cross-entropy times min(exp(s), 100)."""
        near_B = _nearness(self.items(images_BD), points_BD, self.params.comparison)
        return near_B * self.scale() if self.params.link == "cross_entropy" else near_B

    def scale(self) -> Tensor:
        """The learnt inverse temperature of the scores."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)


def _nearness(items_BD: Tensor, points_BD: Tensor, comparison: Comparison) -> Tensor:
    """Return minus the distance, minus the distance of the unit vectors, or the cosine. Larger is nearer."""
    if comparison == "angle":
        return F.cosine_similarity(items_BD, points_BD, dim=-1)
    if comparison == "unit_distance":
        items_BD, points_BD = F.normalize(items_BD, dim=-1), F.normalize(points_BD, dim=-1)
    distance_B: Tensor = torch.linalg.vector_norm(items_BD - points_BD, dim=-1)
    return -distance_B


def link_loss(margin_B: Tensor, link: Link) -> Tensor:
    """Return the loss of each comparison. The margin is the chosen image's score minus the rejected one's.

    Logistic and cross-entropy are one function here: the latter's margin already holds the learnt scale.
    """
    return F.relu(1 - margin_B) if link == "hinge" else -F.logsigmoid(margin_B)


def bound_penalty(points_BD: Tensor, bound: Bound | None) -> Tensor:
    """Return the penalty: a sum over the batch, as in the authors' code, not a mean. 0 without a bound."""
    if bound is None:
        return points_BD.new_zeros(())
    return bound.weight * F.relu(torch.linalg.vector_norm(points_BD, dim=-1) - bound.upper).sum()
