"""Ballots with given labels."""

import hashlib
from collections.abc import Callable

import pytest

from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.judges import Judge
from alignment.data.human_labels import Ballot


@pytest.fixture
def make_ballot() -> Callable[..., Ballot]:
    """A row on item number `item`; `preference` 1 for its first side, -1 for its second, 0 for a tie."""

    def make(item: int, preference: float = 1.0, *, who: str = "ann", source: str = "people") -> Ballot:
        return Ballot(
            pair_id=hashlib.sha256(f"{item} {who}".encode()).hexdigest(),
            item=f"item-{item}",
            chosen_is_first=preference > 0,
            is_tie=preference == 0,
            annotator_id=who,
            source=source,
        )

    return make


@pytest.fixture
def plain_snapshot(make_snapshot: Callable[..., DatasetSnapshot]) -> DatasetSnapshot:
    """A DatasetSnapshot without files."""
    num_pairs = {"train": 30, "calibration": 10, "test": 5}
    return make_snapshot(uri="", num_pairs=num_pairs, num_ties=9, num_prompts=4, sources=("people",))


@pytest.fixture
def make_judge() -> Callable[..., Judge]:
    """A judge with its own training sources."""

    def make(name: str, digest: str = "a", *trained_on: str) -> Judge:
        return Judge(name=name, scorer=ClipPreference(), weights_digest=digest * 64, trained_on=trained_on)

    return make
