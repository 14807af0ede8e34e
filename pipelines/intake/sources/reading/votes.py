"""Labels as shares of votes, and the pairs of a ranking. Pure functions.

A share is the probability that a person prefers image 0: 1, 0, or between, 0.5 for a tie; NaN is not a legal label.
"""

import datetime
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple


class Vote(NamedTuple):
    """A label: the share for image 0 and the number of people behind it, None if it is not known."""

    share: float
    num_votes: int | None = 1


ILLEGAL = Vote(math.nan, None)
_LIKED = frozenset({"1", "true", "yes", "like", "liked", "up"})
_DISLIKED = frozenset({"0", "false", "no", "dislike", "disliked", "down"})


class RankedPair(NamedTuple):
    """Two images of a ranking, by their positions, with the label and the weight of the pair."""

    first: int
    second: int
    vote: Vote
    weight: float


def counted(votes_0: Any, votes_1: Any) -> Vote:
    """Return the label of two numbers of votes; illegal unless both are whole, not negative and not both 0."""
    counts = [number(value) for value in (votes_0, votes_1)]
    if any(n is None or n < 0 or not n.is_integer() for n in counts):
        return ILLEGAL
    first, second = (float(n or 0) for n in counts)
    total = first + second
    return Vote(first / total, int(total)) if total > 0 else ILLEGAL


def shared(share: Any, num_votes: Any = None) -> Vote:
    """Return the label of a share that the source states; illegal outside 0 to 1."""
    value, votes = number(share), number(num_votes)
    if value is None or not 0 <= value <= 1:
        return ILLEGAL
    if num_votes is not None and (votes is None or votes < 1 or not votes.is_integer()):
        return ILLEGAL
    return Vote(value, None if votes is None else int(votes))


def chosen(value: Any, first: str, second: str, tie: Sequence[str]) -> Vote | None:
    """Return the label of a choice by its name; None where there is no choice, illegal for an unknown name."""
    if value is None or value == "":
        return None
    name = _name(value)
    shares = {_name(first): 1.0, _name(second): 0.0} | {_name(own): 0.5 for own in tie}
    return Vote(shares[name]) if name in shares else ILLEGAL


def liked(value: Any) -> Vote | None:
    """Return the label of one image: 1 for true, 1 or a word such as `like`, 0 for the opposite.

    None where it is empty or NaN, illegal for anything else. Text counts as the number that it states, since tables
    with gaps are written with 1.0 and 0.0.
    """
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "" or (isinstance(text, float) and math.isnan(text)):
        return None
    stated = None if isinstance(text, bytes) else number(text)
    name = _name(text if stated is None else stated)
    return Vote(1.0) if name in _LIKED else Vote(0.0) if name in _DISLIKED else ILLEGAL


def ranked_pairs(ranks: Sequence[Any], voters: Sequence[Sequence[Any]] = ()) -> Iterator[RankedPair]:
    """Yield every pair of a ranking of k images with the weight 2 / k: together k - 1, the comparisons that rank them.

    The smaller rank is the better one; equal ranks are a tie, and a rank that is no number makes an illegal label.
    `voters` are the rankings of single people: the label is then the share of them that ranked the first image better,
    half for a tie.
    """
    weight = 2 / max(len(ranks), 2)
    usable = [one for one in voters if len(one) == len(ranks) and all(number(rank) is not None for rank in one)]
    for first, second in combinations(range(len(ranks)), 2):
        votes = [_better(one[first], one[second]) for one in (usable or [ranks])]
        vote = Vote(sum(votes) / len(votes), len(votes)) if not any(map(math.isnan, votes)) else ILLEGAL
        yield RankedPair(first, second, vote, weight)


def number(value: Any) -> float | None:
    """Return a finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def moment(value: Any) -> datetime.datetime | None:
    """Return a time in UTC: a datetime, ISO 8601 text, or seconds since 1970; None where there is none."""
    if isinstance(value, datetime.datetime):
        found = value
    elif isinstance(value, str) and number(value) is None:
        try:
            found = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    else:
        seconds = number(value)
        if seconds is None or not 0 <= seconds < 32_503_680_000:  # until the year 3000
            return None
        found = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    try:
        return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found.astimezone(datetime.UTC)
    except OverflowError:
        return None


def _better(rank: Any, other: Any) -> float:
    a, b = number(rank), number(other)
    if a is None or b is None:
        return math.nan
    return 0.5 if a == b else float(a < b)


def _name(value: Any) -> str:
    """Return a choice as text; 1 and 1.0 are the same choice."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()
