"""Accuracy tables of preference heads, on heads with known outputs."""

import pytest
import torch

from alignment.contracts.reward_models import BradleyTerry, FewShot, Head, PalA, Projector
from alignment.evaluation.reward_accuracy import HeadAndBaseline, _first_labels, seen_users, unseen_users
from alignment.rewards.pal_head import IdealPoints, PreferenceHead
from alignment.training.reward_model import PreferencePairs

PLAIN = Projector(num_hidden_layers=1, dropout=0.0, residual=False)
LEFT, RIGHT = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def head_of(params: Head, users: int) -> PreferenceHead:
    """Projectors that do nothing; ideal points at (1, 0) and (0, 1)."""
    head = PreferenceHead(params, 2, 2, num_users=users)
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(torch.eye(2))
                module.bias.zero_()
        if isinstance(head.points, IdealPoints):
            head.points.prototypes_KD.copy_(torch.eye(2))
    return head.eval()


def comparisons(users: list[int]) -> PreferencePairs:
    """Users of even number choose (1, 0) over (0, 1), the others (0, 1) over (1, 0); the prompt is (1, 0)."""
    even = (torch.tensor(users) % 2 == 0).unsqueeze(1)
    chosen, rejected = torch.where(even, LEFT, RIGHT), torch.where(even, RIGHT, LEFT)
    return PreferencePairs(chosen, rejected, LEFT.expand(len(users), -1), torch.tensor(users))


@pytest.fixture
def heads() -> HeadAndBaseline:
    """A head where user 0 prefers (1, 0) and user 1 (0, 1); the baseline prefers images near the prompt."""
    head = head_of(PalA(projector=PLAIN, ideal_point="Pw"), users=2)
    with torch.no_grad():
        head.user_logits_UK.copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    return HeadAndBaseline(head, head_of(BradleyTerry(projector=PLAIN), users=2))


def test_seen_users_are_scored_with_their_own_mixture(heads: HeadAndBaseline) -> None:
    found = seen_users(heads, comparisons([0, 0, 0, 1]))
    assert (found.users, found.labels_per_user, found.num_users, found.num_pairs) == ("seen", 0, 2, 4)
    assert found.accuracy == 1.0
    assert found.baseline_accuracy == 0.75


def test_unseen_users_are_fitted_first_and_a_row_covers_users_with_enough_labels(heads: HeadAndBaseline) -> None:
    """User 0 has 5 labels, user 1 has 5, user 2 only 2, user 3 has 5 and no test."""
    labels = comparisons([0] * 5 + [1] * 5 + [2] * 2 + [3] * 5)
    tests = comparisons([0, 1, 1, 2])
    rows = unseen_users(heads, labels, tests, labels_per_user=(2, 5, 50), few_shot=FewShot(learning_rate=0.1), seed=1)
    assert [(row.labels_per_user, row.num_users, row.num_pairs) for row in rows] == [(2, 3, 4), (5, 2, 3)]
    assert [row.accuracy for row in rows] == [1.0, 1.0]
    assert rows[0].baseline_accuracy == 0.5
    assert rows[1].baseline_accuracy == pytest.approx(1 / 3)
    assert heads.head.user_logits_UK.tolist() == [[4.0, 0.0], [0.0, 4.0]]


def test_larger_label_sets_contain_the_smaller_ones() -> None:
    users = torch.tensor([7, 8, 7, 7, 8, 7])
    few, more = (set(_first_labels(users, num, seed=3).tolist()) for num in (1, 3))
    assert len(few) == 2
    assert len(more) == 3
    assert {row for row in few if users[row] == 7} < more
    assert set(users[list(more)].tolist()) == {7}
    assert len(_first_labels(users, 9, seed=3)) == 0
