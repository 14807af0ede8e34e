"""Accuracy of preference heads on held-out comparisons of seen users and of new users with a few labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.contracts.reward_models import FewShot, RewardAccuracy
from alignment.rewards.pal_head import PreferenceHead
from alignment.training.reward_model import (
    PreferencePairs,
    fit_new_users,
    margins,
    new_users_head,
    pair_accuracy,
    start_logits,
)
from alignment.training.seeding import stream


@dataclass(frozen=True)
class HeadAndBaseline:
    """A head and its baseline, a single-preference head trained on the same comparisons."""

    head: PreferenceHead
    baseline: PreferenceHead


def seen_users(heads: HeadAndBaseline, tests: PreferencePairs) -> RewardAccuracy:
    """Return the accuracy on held-out comparisons of users that both heads were trained on."""
    return RewardAccuracy(
        users="seen",
        labels_per_user=0,
        num_users=len(torch.unique(tests.users_N)),
        num_pairs=len(tests),
        accuracy=_accuracy(heads.head, tests),
        baseline_accuracy=_accuracy(heads.baseline, tests),
    )


def unseen_users(
    heads: HeadAndBaseline,
    labels: PreferencePairs,
    tests: PreferencePairs,
    *,
    labels_per_user: Sequence[int],
    few_shot: FewShot,
    seed: int,
) -> tuple[RewardAccuracy, ...]:
    """Return the accuracy after a fit to n labels of each unseen user, for each n; smaller sets are subsets.

    Users are numbered from 0 in `labels` and `tests` alike. A row covers the users with n labels and a test. The
    baseline has no mixture to fit and is measured on the same comparisons. An n that no user reaches gives no row.
    """
    found = (
        _unseen_row(heads, labels, tests, num_labels, few_shot=few_shot, seed=seed) for num_labels in labels_per_user
    )
    return tuple(row for row in found if row is not None)


def _unseen_row(
    heads: HeadAndBaseline,
    labels: PreferencePairs,
    tests: PreferencePairs,
    num_labels: int,
    *,
    few_shot: FewShot,
    seed: int,
) -> RewardAccuracy | None:
    shown = labels.take(_first_labels(labels.users_N, num_labels, seed)).of_users(torch.unique(tests.users_N))
    tested = tests.of_users(torch.unique(shown.users_N))
    if not len(tested):
        return None
    num_users = int(labels.users_N.max()) + 1
    start_UK = start_logits(heads.head, num_users, few_shot, seed)
    fitted = fit_new_users(heads.head, shown, start_UK, params=few_shot, seed=seed, on_step=lambda _, __: None)
    baseline = new_users_head(heads.baseline, torch.zeros(num_users, 1))
    return RewardAccuracy(
        users="unseen",
        labels_per_user=num_labels,
        num_users=len(torch.unique(tested.users_N)),
        num_pairs=len(tested),
        accuracy=_accuracy(fitted, tested),
        baseline_accuracy=_accuracy(baseline, tested),
    )


def _first_labels(users_N: Tensor, num_labels: int, seed: int) -> Tensor:
    """Return the rows of the first `num_labels` comparisons of each user in the seed's order; skip users with fewer."""
    chosen = []
    for user in torch.unique(users_N).tolist():
        rows = (users_N == user).nonzero().flatten()
        order = torch.randperm(len(rows), generator=stream("labels", seed, user)).to(rows.device)
        if len(rows) >= num_labels:
            chosen.append(rows[order[:num_labels]])
    return torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.int64, device=users_N.device)


@torch.no_grad()
def _accuracy(head: PreferenceHead, tests: PreferencePairs) -> float:
    margin_N, _ = margins(head, tests)
    return pair_accuracy(margin_N)
