"""Pairs by a map of columns."""

from typing import Any

import pytest

from pipelines.intake.sources.reading.column_map import mapped_pair
from pipelines.intake.sources.reading.votes import ILLEGAL, Vote
from pipelines.project.columns import ColumnsSection

ROW: dict[str, Any] = {"p": "a fox", "l": b"0", "r": b"1", "share": 0.2, "n": 5, "a": 3, "b": 1, "c": "x", "who": 7}
IMAGES = {"prompt": "p", "image_0": "l", "image_1": "r"}


@pytest.mark.parametrize(
    ("label", "vote"),
    [
        ({"preference": "share", "num_votes": "n"}, Vote(0.2, 5)),
        ({"preference": "share"}, Vote(0.2, None)),
        ({"votes_0": "a", "votes_1": "b"}, Vote(0.75, 4)),
        ({"votes_0": "a", "votes_1": "none"}, ILLEGAL),
        ({"votes_0": "none", "votes_1": "none"}, None),
        ({"preference": "none"}, None),
        ({"choice": "c", "choice_0": "X"}, Vote(1.0)),
        ({"choice": "c"}, ILLEGAL),
        ({"choice": "c", "choice_tie": "x"}, Vote(0.5)),
    ],
)
def test_each_kind_of_label(label: dict[str, str], vote: Vote | None) -> None:
    pair = mapped_pair(ROW, ColumnsSection(**IMAGES, **label, annotator="who"))
    assert (pair.prompt, pair.image_0, pair.image_1, pair.annotator) == ("a fox", b"0", b"1", 7)
    assert pair.vote == vote or (vote is ILLEGAL and pair.vote is ILLEGAL)


def test_more_words_for_a_tie_and_resolved_pairs() -> None:
    assert mapped_pair(ROW, ColumnsSection(**IMAGES, choice="c"), ties=("X",)).vote == Vote(0.5)
    pair = mapped_pair(ROW, ColumnsSection(prompt="p", chosen="r", rejected="l"))
    assert (pair.image_0, pair.image_1, pair.vote) == (b"1", b"0", Vote(1.0))
