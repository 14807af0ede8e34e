"""A ballot in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from alignment.statistics.prompts import EvalPrompt
from pipelines.platform.ballot.ballot import Ballot
from pipelines.platform.ballot.pairs import BallotModel, BallotPair, blind_pairs

CANDIDATE = BallotModel("tiny version 3 cafe12cafe", "file:///store/samples/candidate")
CHAMPION = BallotModel("tiny version 2 beef34beef", "file:///store/samples/champion")


@dataclass
class Written:
    """A ballot, and the votes that it wrote: key and preference of each call."""

    ballot: Ballot
    votes: list[tuple[str, float]] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    fault: Exception | None = None


def make_ballot(count: int = 5, *, swapped: bool = False) -> Written:
    """A ballot of `count` prompts. `swapped` lets each model draw the other one's images."""
    models = (CHAMPION, CANDIDATE) if swapped else (CANDIDATE, CHAMPION)
    prompts = [EvalPrompt(index, f"a <fox> & number {index}", "any") for index in range(count)]
    pairs = blind_pairs(prompts, models, seeds=(0, 1), subject="s", annotator="ada", most=count)

    def record(pair: BallotPair, preference: float) -> bool:
        if written.fault:
            raise written.fault
        written.votes.append((pair.key, preference))
        return True

    written = Written(
        Ballot(
            project="tiny",
            annotator="ada",
            pairs=pairs,
            note="A note.",
            next_step="plumbline gate people tiny",
            read_image=lambda uri: b"\x89PNG " + uri.encode(),
            record=record,
            withdraw=lambda pair: written.withdrawn.append(pair.key),
        )
    )
    return written


@pytest.fixture
def ballot_of() -> Callable[..., Written]:
    """Factory of ballots."""
    return make_ballot
