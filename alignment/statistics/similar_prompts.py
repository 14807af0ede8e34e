"""Find near-duplicates among many prompts without comparing all pairs. Torch-free.

Two prompts can only be near-duplicates when they share one of the first few words of each, in an order of words from
rare to frequent (prefix filtering: Chaudhuri et al. 2006, "A primitive operator for similarity joins in data
cleaning"). So the search is exact; hashes of a sample of words (MinHash) would miss some near-duplicates.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

SIMILAR = 0.9
"""Similarity from which two prompts are near-duplicates: twice the number of common words, in the same order, divided
by the number of words of both. One word of ten may differ, so that short prompts from one template stay apart."""

_PARTS = 100
_SIMILAR_PARTS = round(SIMILAR * _PARTS)
_BUCKETS = 1 << 22
"""Counters for words, by their hash: 4 MiB."""

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
    frequency = _shared_words(normal)
    lengths = [len(prompt.split()) for prompt in normal]
    words = [tuple(sys.intern(word) for word in prompt.split() if word in frequency) for prompt in normal]
    first = list(range(len(words)))
    places: dict[str, list[int]] = {}
    for place, own in enumerate(words):
        rare = sorted(_numbered(own), key=lambda word: (frequency[word], word))
        for word in rare[: max(0, _prefix_length(lengths[place]) - lengths[place] + len(own))]:
            if word not in frequency:
                continue
            for other in places.setdefault(word, []):
                one, root = _root(first, place), _root(first, other)
                if one != root and _are_near(own, words[other], lengths[place] + lengths[other]):
                    first[max(one, root)] = min(one, root)
            places[word].append(place)
    return [_root(first, place) for place in range(len(words))]


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


def _are_near(one: Words, other: Words, num_words: int) -> bool:
    """Return True when 2 x common words / `num_words` is at least SIMILAR, in whole numbers."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(one, other) * 2 * _PARTS >= _SIMILAR_PARTS * num_words


def _root(first: list[int], place: int) -> int:
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
