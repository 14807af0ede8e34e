"""Perturb a text at a stated level: words are dropped, replaced by others and moved. Torch-free.

DCPO's authors perturb with DIPPER, an 11-billion-parameter paraphraser, at a lexical diversity of 40, 60 and 80 out of
100 (order diversity 0). This file runs no paraphraser. Its levels use those three numbers as the share of a text's
words that are changed; of these a quarter is dropped, half is replaced, and a quarter changes places. The perturbed
texts are therefore not fluent, differ from DIPPER's mostly in meaning rather than wording, and lose word order too.
"""

import bisect
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignment.contracts.captions import Level, Perturbation


@dataclass(frozen=True)
class _ChangedShares:
    """Shares of a text's words that are dropped, replaced, and moved to another of their positions."""

    drop: float
    replace: float
    shuffle: float


LEVELS: Mapping[Level, _ChangedShares] = {
    "weak": _ChangedShares(drop=0.10, replace=0.20, shuffle=0.10),
    "medium": _ChangedShares(drop=0.15, replace=0.30, shuffle=0.15),
    "strong": _ChangedShares(drop=0.20, replace=0.40, shuffle=0.20),
}


def vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct words of some texts, sorted: the pool of replacements, drawn uniformly."""
    return tuple(sorted({word for text in texts for word in text.split()}))


def perturbed(text: str, words: Sequence[str], *, perturbation: Perturbation, pair_id: str) -> str:
    """Return the text with a share of its words changed; the randomness depends on (seed, pair id, text) only.

    Words are separated by white space; `words` are sorted and distinct, as `vocabulary` returns them. At least one word
    is changed and at least one is left. The result has other words than the text, except for a single word without an
    alternative in `words`. ValueError for a text without words.
    """
    before = text.split()
    if not before:
        raise ValueError(f"Pair {pair_id} has an empty text, which cannot be perturbed. Ingest it with a prompt.")
    draws = _Draws(f"{perturbation.seed}\n{pair_id}\n{text}")
    plan = _plan(len(before), LEVELS[perturbation.level])
    order = draws.shuffled(len(before))
    dropped = set(order[: plan.drop])
    after = list(before)
    for place in order[plan.drop : plan.drop + plan.replace]:
        after[place] = _other_word(before[place], words, draws)
    _rotate(after, order[plan.drop + plan.replace :][: plan.shuffle])
    left = [word for place, word in enumerate(after) if place not in dropped]
    if left == before and len(left) > 1:
        del left[draws.below(len(left))]
    return " ".join(left)


@dataclass(frozen=True)
class _Counts:
    drop: int
    replace: int
    shuffle: int


def _plan(num_words: int, shares: _ChangedShares) -> _Counts:
    """Return the number of words to drop, replace and move. A move needs two words; a single one is replaced.

    A drop share below one half leaves at least one word of any text.
    """
    touched = max(1, round(num_words * (shares.drop + shares.replace + shares.shuffle)))
    drop = round(num_words * shares.drop)
    replace = min(round(num_words * shares.replace), touched - drop)
    shuffle = touched - drop - replace
    return _Counts(drop, replace, shuffle) if shuffle > 1 else _Counts(drop, replace + shuffle, 0)


def _other_word(word: str, words: Sequence[str], draws: "_Draws") -> str:
    """Draw one of the sorted, distinct `words` other than `word`; `word` itself where there is no other."""
    place = bisect.bisect_left(words, word)
    known = place < len(words) and words[place] == word
    if len(words) == known:
        return word
    drawn = draws.below(len(words) - known)
    return words[drawn + 1 if known and drawn >= place else drawn]


def _rotate(words: list[str], places: Sequence[int]) -> None:
    """Rotate the words at these positions by one, in place."""
    moved = [words[place] for place in places]
    for place, word in zip(places, moved[-1:] + moved[:-1], strict=True):
        words[place] = word


class _Draws:
    """A stream of integers from sha256, the same in every version of Python."""

    def __init__(self, key: str) -> None:
        self._key = key.encode("utf-8", "surrogatepass")
        self._count = 0

    def below(self, bound: int) -> int:
        """Return an integer in [0, bound); uniform up to bound / 2**64."""
        self._count += 1
        digest = hashlib.sha256(self._key + f"\n{self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def shuffled(self, count: int) -> list[int]:
        """Return 0 .. count - 1 in random order."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
