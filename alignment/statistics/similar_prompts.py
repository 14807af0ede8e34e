"""Find near-duplicates among many prompts without comparing all pairs. Torch-free.

Two prompts can only be near-duplicates when they share one of the first few words of each, in an order of words from
rare to frequent (prefix filtering: Chaudhuri et al. 2006, "A primitive operator for similarity joins in data
cleaning"). So the search is exact; hashes of a sample of words (MinHash) would miss some near-duplicates.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

SIMILAR = 0.9
"""Similarity from which two prompts are near-duplicates: twice the number of common words, in the same order, divided
by the number of words of both. One word of ten may differ, so that short prompts from one template stay apart."""

_PARTS = 100
_SIMILAR_PARTS = round(SIMILAR * _PARTS)
_BUCKETS = 1 << 22
"""Counters for words, by their hash: 4 MiB."""
_MANY = 32
"""Number of candidates from which all are looked at together before any two prompts are compared."""

Words = tuple[str, ...]


class NearPrompts:
    """Prompts, in normal form, that others are compared with."""

    def __init__(self, normal: Iterable[str]) -> None:
        self._words = [tuple(prompt.split()) for prompt in sorted(normal)]
        self._frequency = Counter(word for own in self._words for word in _numbered(own))
        self._places: dict[str, list[int]] = {}
        for place, own in enumerate(self._words):
            for word in self._prefix(own):
                self._places.setdefault(word, []).append(place)

    def is_near(self, normal: str) -> bool:
        """Return True when one of the prompts is a near-duplicate of this one, which is in normal form."""
        own = tuple(normal.split())
        places = {place for word in self._prefix(own) for place in self._places.get(word, ())}
        similar = _similarity()
        return any(similar(own, self._words[place]) for place in places)

    def _prefix(self, own: Words) -> list[str]:
        return sorted(_numbered(own), key=lambda word: (self._frequency[word], word))[: _prefix_length(len(own))]


def similar_groups(normal: Sequence[str]) -> list[int]:
    """Return for each prompt, in normal form, the first position that a chain of near-duplicates connects it with.

    Only words that several prompts have are kept: the others are in no common sequence.
    """
    prompts = _NumberedPrompts(_shared_words(normal))
    first = array("q", range(len(normal)))
    places: dict[int, array[int]] = {}
    for place, prompt in enumerate(normal):
        for word in prompts.append(prompt):
            for other in prompts.candidates(place, places.setdefault(word, array("q")), first):
                one, root = _root(first, place), _root(first, other)
                if one != root and prompts.are_near(place, other):
                    first[max(one, root)] = min(one, root)
            places[word].append(place)
    return [_root(first, place) for place in range(len(first))]


class _NumberedPrompts:
    """The shared words of prompts as numbers, in about 60 bytes a prompt. `frequency` is that of each shared word."""

    def __init__(self, frequency: Mapping[str, int]) -> None:
        self._numbers = {word: number for number, word in enumerate(sorted(frequency, key=lambda w: (frequency[w], w)))}
        self._words, self._starts = array("I"), array("q", [0])
        self._lengths, self._signatures = array("q"), array("Q")

    def append(self, prompt: str) -> list[int]:
        """Add a prompt; return those of its words of which a near-duplicate has at least one among its own."""
        words = prompt.split()
        shared = [word for word in words if word in self._numbers]
        self._words.extend(self._numbers[word] for word in shared)
        self._starts.append(len(self._words))
        self._lengths.append(len(words))
        self._signatures.append(_signature(self._words[-len(shared) :]) if shared else 0)
        rare = sorted(self._numbers[word] for word in _numbered(tuple(shared)) if word in self._numbers)
        return rare[: max(0, _prefix_length(len(words)) - len(words) + len(shared))]

    def candidates(self, place: int, others: "array[int]", first: "array[int]") -> Iterable[int]:
        """Return the other prompts that may be near-duplicates of the prompt at `place` and in another group.

        `first` has for each prompt an earlier one of its group, or itself.
        """
        return others if len(others) < _MANY else self._maybe_near(place, others, first)

    def are_near(self, place: int, other: int) -> bool:
        """Return True when two prompts are near-duplicates."""
        return _are_near(tuple(self._of(place)), tuple(self._of(other)), self._lengths[place] + self._lengths[other])

    def _of(self, place: int) -> "array[int]":
        return self._words[self._starts[place] : self._starts[place + 1]]

    def _maybe_near(self, place: int, others: "array[int]", first: "array[int]") -> list[int]:
        """Leave out prompts that lack too many of the words, and those that are known to be in the same group.

        A bit of the signature that the other prompt lacks is at least one word that it lacks. So the common words are
        at most the shared words of one less the bits of its signature that the other lacks.
        """
        asked = np.array(others)
        asked = asked[np.frombuffer(first, first.typecode)[asked] != _root(first, place)]
        arrays = (self._lengths, self._signatures, self._starts)
        lengths, signatures, starts = (np.frombuffer(values, values.typecode) for values in arrays)
        own, theirs = signatures[place], signatures[asked]
        common = np.minimum(
            len(self._of(place)) - np.bitwise_count(own & ~theirs).astype(np.int64),
            starts[asked + 1] - starts[asked] - np.bitwise_count(theirs & ~own),
        )
        kept: list[int] = asked[2 * _PARTS * common >= _SIMILAR_PARTS * (lengths[place] + lengths[asked])].tolist()
        return kept


def _signature(words: Iterable[int]) -> int:
    """Return 64 bits, of which each word sets one."""
    found = 0
    for word in words:
        found |= 1 << word % 64
    return found


def _shared_words(normal: Sequence[str]) -> Counter[str]:
    """Count the words that more than one prompt has. Words of one prompt are not held in memory, however many."""
    seen = bytearray(_BUCKETS)
    for prompt in normal:
        for word in _numbered(tuple(prompt.split())):
            bucket = hash(word) % _BUCKETS
            seen[bucket] = min(seen[bucket] + 1, 2)
    frequency = Counter[str]()
    for prompt in normal:
        frequency.update(word for word in _numbered(tuple(prompt.split())) if seen[hash(word) % _BUCKETS] > 1)
    return Counter({word: number for word, number in frequency.items() if number > 1})


def _are_near(one: Sequence[Hashable], other: Sequence[Hashable], num_words: int) -> bool:
    """Return True when 2 x common words / `num_words` is at least SIMILAR, in whole numbers."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(one, other) * 2 * _PARTS >= _SIMILAR_PARTS * num_words


def _root(first: "array[int]", place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = first[place]
    return place


def _numbered(words: Words) -> Words:
    """Tell repetitions of a word apart, so that sets of words have as many members as the prompt has words."""
    if len(set(words)) == len(words):
        return words
    seen: Counter[str] = Counter()
    numbered = []
    for word in words:
        seen[word] += 1
        numbered.append(word if seen[word] == 1 else f"{word} {seen[word]}")
    return tuple(numbered)


def _prefix_length(num_words: int) -> int:
    """Return the number of rarest words of which a near-duplicate shares at least one among its own.

    With a and b words and c common ones, similarity is 2 c / (a + b). At least s of it needs c >= s (a + b) / 2, and
    b >= c, hence c >= a s / (2 - s).
    """
    common = math.ceil(num_words * SIMILAR / (2 - SIMILAR) - 1e-9)
    return num_words - common + 1


def _similarity() -> Callable[[Words, Words], bool]:
    from rapidfuzz.distance import Indel

    similarity = Indel.normalized_similarity
    return lambda one, other: similarity(one, other, score_cutoff=SIMILAR) > 0
