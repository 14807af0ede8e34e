"""Train preference heads on frozen embeddings, and fit the mixtures of new users with everything else frozen.

N counts comparisons, B those of one step, D an embedding's width, K prototypes, U users.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from alignment.contracts.jobs import JobStoppedError
from alignment.contracts.reward_models import FewShot, Head, HeadOptimiser, RewardRecipe
from alignment.rewards.pal_head import IdealPoints, PreferenceHead, bound_penalty, link_loss
from alignment.training.batches import step_visits
from alignment.training.seeding import stream, stream_seed

OnStep = Callable[[int, dict[str, float]], None]
"""Called after each step with its number, from 1, and its metrics."""


@dataclass(frozen=True)
class PreferencePairs:
    """Comparisons without ties, as embeddings."""

    chosen_ND: Tensor
    rejected_ND: Tensor
    prompts_ND: Tensor
    users_N: Tensor
    """int64, the row of each comparison's user in the head's logits."""

    def __len__(self) -> int:
        return len(self.users_N)

    def take(self, rows: Tensor) -> "PreferencePairs":
        """Select comparisons, in the order of `rows`."""
        return PreferencePairs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def of_users(self, users: Tensor) -> "PreferencePairs":
        """Select the comparisons of some users."""
        return self.take(torch.isin(self.users_N, users).nonzero().flatten())


@dataclass(frozen=True)
class TrainedHead:
    """A head in evaluation mode, the step at which its weights were saved, and that step's metrics."""

    head: PreferenceHead
    best_step: int
    metrics: dict[str, float]


def build_head(params: Head, pairs: PreferencePairs, num_users: int, seed: int) -> PreferenceHead:
    """Create a new head as wide as the embeddings, drawn from the seed: users' logits are standard normal."""
    _check_pairs(pairs)
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed("head", seed))
        head = PreferenceHead(params, pairs.chosen_ND.shape[1], pairs.prompts_ND.shape[1], num_users)
    return head.to(pairs.chosen_ND.device)


def _check_pairs(pairs: PreferencePairs) -> None:
    """Raise ValueError when there are no comparisons or an embedding is not finite."""
    if not len(pairs):
        raise ValueError("There are no comparisons with a preference to train on. Use a larger snapshot.")
    for name in ("chosen_ND", "rejected_ND", "prompts_ND"):
        bad = ~getattr(pairs, name).isfinite().all(dim=1)
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(pairs)} embeddings in {name} are not finite, the first in row"
                f" {int(bad.nonzero()[0])}. Fix or replace the encoder that computed them."
            )


def margins(head: PreferenceHead, pairs: PreferencePairs) -> tuple[Tensor, Tensor]:
    """Compute margin_B (chosen minus rejected, for each comparison's own user) and the users' points_BD."""
    points_BD = head.points_of(head.mixture(pairs.users_N), pairs.prompts_ND)
    return head.scores(pairs.chosen_ND, points_BD) - head.scores(pairs.rejected_ND, points_BD), points_BD


def _objective(head: PreferenceHead, pairs: PreferencePairs) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of a step, the mean link loss plus the bound, and its monitors."""
    margin_B, points_BD = margins(head, pairs)
    preference = link_loss(margin_B, head.params.link).mean()
    bound = bound_penalty(points_BD, head.params.bound)
    monitors = {
        "loss": preference.item(),
        "bound": bound.item(),
        "accuracy": pair_accuracy(margin_B),
        "margin": margin_B.mean().item(),
    }
    return preference + bound, monitors


def pair_accuracy(margin_B: Tensor) -> float:
    """Share of comparisons ranked as the user did; equal scores count as half right."""
    right_B = (margin_B > 0).double() + 0.5 * (margin_B == 0).double()
    return float(right_B.mean())


# --- training ---------------------------------------------------------------------------------------------------------


def train_head(
    head: PreferenceHead,
    training: PreferencePairs,
    validation: PreferencePairs,
    *,
    recipe: RewardRecipe,
    on_step: OnStep,
) -> TrainedHead:
    """Train a copy; keep the weights with the lowest validation loss, or the last ones without validation pairs.

    The order of comparisons and the dropout masks follow from (seed, step) only. A loss that is not finite raises
    JobStoppedError (diverged).
    """
    head = copy.deepcopy(head)
    optimiser = _build_head_optimiser(head, recipe.optimiser)
    best, lowest = TrainedHead(head, 0, {}), math.inf
    for step in range(recipe.steps):
        visits = step_visits(step, global_batch=recipe.global_batch, num_pairs=len(training), seed=recipe.seed)
        rows = torch.tensor([visit.pair for visit in visits], device=training.users_N.device)
        monitors = _update(head.train(), training.take(rows), optimiser, dropout_seed=(recipe.seed, step))
        done = step + 1
        validated = len(validation) and (done % recipe.validate_every_steps == 0 or done == recipe.steps)
        if validated:
            monitors["validation_loss"] = _validation_loss(head.eval(), validation)
        if not len(validation):
            best = TrainedHead(head, done, monitors)
        elif validated and monitors["validation_loss"] < lowest:
            best, lowest = TrainedHead(copy.deepcopy(head), done, monitors), monitors["validation_loss"]
        on_step(done, monitors)
    return TrainedHead(best.head.eval().requires_grad_(False), best.best_step, best.metrics)


def _build_head_optimiser(head: PreferenceHead, params: HeadOptimiser) -> torch.optim.AdamW:
    """Build AdamW with three rates; only projectors decay."""
    prototypes = [head.points.prototypes_KD] if isinstance(head.points, IdealPoints) else []
    slow = {id(weight) for weight in (head.log_scale, head.user_logits_UK, *prototypes)}
    projectors = [weight for weight in head.parameters() if id(weight) not in slow]
    groups = [
        {"params": projectors, "lr": params.projector_learning_rate, "weight_decay": params.projector_weight_decay},
        {"params": [head.user_logits_UK, *prototypes], "lr": params.user_learning_rate, "weight_decay": 0.0},
        {"params": [head.log_scale], "lr": params.scale_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)


def _update(
    head: PreferenceHead, batch: PreferencePairs, optimiser: torch.optim.Optimizer, *, dropout_seed: tuple[int, int]
) -> dict[str, float]:
    seed, step = dropout_seed
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed("dropout", seed, step))
        loss, monitors = _objective(head, batch)
    if not bool(loss.isfinite()):
        raise JobStoppedError("diverged", f"The loss is {loss.item()} at step {step}. Lower the learning rates.", step)
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    return monitors


@torch.no_grad()
def _validation_loss(head: PreferenceHead, validation: PreferencePairs) -> float:
    margin_N, _ = margins(head, validation)
    return link_loss(margin_N, head.params.link).mean().item()


# --- new users --------------------------------------------------------------------------------------------------------


def new_users_head(head: PreferenceHead, start_UK: Tensor) -> PreferenceHead:
    """Return a copy with other users and these logits; only the logits are trainable."""
    known = copy.deepcopy(head).requires_grad_(False)
    known.user_logits_UK = torch.nn.Parameter(start_UK.detach().clone().to(head.user_logits_UK))
    return known.eval()


def start_logits(head: PreferenceHead, num_users: int, params: FewShot, seed: int) -> Tensor:
    """Initial logits of users without any labels."""
    shape = (num_users, head.params.num_prototypes)
    return torch.zeros(shape) if params.start == "even" else torch.randn(shape, generator=stream("users", seed))


def fit_new_users(
    head: PreferenceHead, labels: PreferencePairs, start_UK: Tensor, *, params: FewShot, seed: int, on_step: OnStep
) -> PreferenceHead:
    """Fit the mixtures of users from a few comparisons each: AdamW without decay on their logits only.

    Dropout is off, because none of the parts that it regularises is trained. A user without labels keeps the start.
    """
    _check_pairs(labels)
    fitted = new_users_head(head, start_UK)
    optimiser = torch.optim.AdamW([fitted.user_logits_UK], lr=params.learning_rate, weight_decay=0.0)
    batch = min(params.batch, len(labels))
    for step in range(params.epochs * math.ceil(len(labels) / batch)):
        visits = step_visits(step, global_batch=batch, num_pairs=len(labels), seed=seed)
        rows = torch.tensor([visit.pair for visit in visits], device=labels.users_N.device)
        monitors = _update(fitted, labels.take(rows), optimiser, dropout_seed=(seed, step))
        on_step(step + 1, monitors)
    return fitted.requires_grad_(False)
