"""Figures of a snapshot from its rows: counts of every property, people, and their agreement. Pure functions.

Counters and vote tables of several shards are added, so that a report needs the rows of one shard at a time.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.contracts.data import Split
from pipelines.contracts.data_report import AgreementFigures, AnnotatorFigures, DataFigures

Row = Mapping[str, Any]
Counts = Counter[tuple[str, str, Split]]
"""Number of pairs or images by property, category and split."""
Votes = NDArray[np.void]

UNITS = {
    "split": "pairs",
    "source": "pairs",
    "label": "pairs",
    "prompt length": "pairs",
    "licence": "pairs",
    "generator": "images",
    "size": "images",
    "aspect": "images",
    "format": "images",
    "unpaired": "single images",
}
"""What each property counts, in the order of the report."""
_WHERE_COUNTED = frozenset({"unpaired"})
"""Properties that a report has only where something was counted."""
FIRST, SECOND, TIE = "first image preferred", "second image preferred", "tie"
UNKNOWN = "not stated"
OTHERS = "others"
MOST_CATEGORIES = 30
"""Categories of a property that are listed; the rest are counted as one."""
MOST_ANNOTATORS = 25
_LENGTHS = ((25, "up to 25"), (75, "26 to 75"), (150, "76 to 150"), (300, "151 to 300"))
_LONG = "over 300"
_ASPECTS = ((0.5, "narrower than 1:2"), (0.75, "1:2 to 3:4"), (0.99, "3:4 to 1:1"), (1.01, "square"))
_WIDE = ((4 / 3, "1:1 to 4:3"), (2.0, "4:3 to 2:1"))
_WIDEST = "wider than 2:1"
ORDERS = {
    "split": ("train", "calibration", "test"),
    "label": (FIRST, SECOND, TIE),
    "prompt length": (*(name for _, name in _LENGTHS), _LONG),
    "aspect": (*(name for _, name in (*_ASPECTS, *_WIDE)), _WIDEST),
}
"""Properties whose categories have an order; the others are sorted by their number."""
_VOTE = np.dtype([("who", "S64"), ("comparison", "u8"), ("label", "i1"), ("first", "i1")])
"""One label of a named person: `label` is that of the image with the smaller sha256, `first` that of the first image;
0 rejected, 1 tie, 2 chosen.
"""


def count_rows(rows: Sequence[Row]) -> Counts:
    """Count the rows by every property; a property of images counts both images of a pair."""
    counts: Counts = Counter()
    for row in rows:
        split = row["split"]
        counts.update((name, category, split) for name, category in _of_pair(row))
        for side in (0, 1):
            counts.update((name, category, split) for name, category in _of_image(row, side))
    return counts


def count_unpaired(rows: Sequence[Row]) -> Counts:
    """Count rows of single images by source and label."""
    return Counter(
        ("unpaired", f"{row['source']}: {'liked' if row['preference'] == 1 else 'disliked'}", row["split"])
        for row in rows
    )


def _of_pair(row: Row) -> tuple[tuple[str, str], ...]:
    return (
        ("split", row["split"]),
        ("source", row["source"]),
        ("label", (SECOND, TIE, FIRST)[_vote(row["preference"])]),
        ("prompt length", _bin(len(row["prompt"]), _LENGTHS, _LONG)),
        ("licence", row["licence"]),
    )


def _of_image(row: Row, side: int) -> tuple[tuple[str, str], ...]:
    width, height = row[f"width_{side}"], row[f"height_{side}"]
    return (
        ("generator", row[f"generator_{side}"] or UNKNOWN),
        ("size", f"{width} x {height}"),
        ("aspect", _bin(width / height, (*_ASPECTS, *_WIDE), _WIDEST)),
        ("format", row[f"format_{side}"] or UNKNOWN),
    )


def _bin(value: float, bins: Sequence[tuple[float, str]], last: str) -> str:
    return next((name for high, name in bins if value <= high), last)


def _vote(preference: float) -> int:
    """Return 2 for the preferred image, 0 for the other and 1 for a tie; a soft label counts for its side."""
    return 1 + (preference > 0.5) - (preference < 0.5)


def votes(rows: Sequence[Row]) -> Votes:
    """Return one entry per row that names an annotator."""
    return np.array([_entry(row) for row in rows if row["annotator_id"]], _VOTE)


def _entry(row: Row) -> tuple[bytes, int, int, int]:
    shas, first = [row["sha256_0"], row["sha256_1"]], _vote(row["preference"])
    shown = "\n".join([*sorted(shas), row["prompt"]]).encode("utf-8", "surrogatepass")
    comparison = int.from_bytes(hashlib.blake2b(shown, digest_size=8).digest(), "big")
    return row["annotator_id"].encode(), comparison, first if shas[0] <= shas[1] else 2 - first, first


def figures(counts: Counts, named: Votes, *, num_pairs: int) -> DataFigures:
    """Return the figures of `num_pairs` pairs, of which `named` have an annotator."""
    others, equal = _compared(named)
    counted = {name for name, _, _ in counts}
    people, who = np.unique(named["who"], return_inverse=True)
    return DataFigures(
        num_pairs=num_pairs,
        num_unpaired=sum(number for (name, _, _), number in counts.items() if name == "unpaired"),
        counts={name: _categories(counts, name) for name in UNITS if name in counted or name not in _WHERE_COUNTED},
        num_annotators=len(people),
        num_unnamed=num_pairs - len(named),
        annotators=_annotators(people, who, named, others, equal),
        agreement=_agreement(named, others, equal),
    )


def _categories(counts: Counts, name: str) -> dict[str, dict[Split, int]]:
    """Return the counts of a property by category and split, in the order of the report."""
    totals = Counter[str]()
    for (other, category, _), number in counts.items():
        if other == name:
            totals[category] += number
    ordered = sorted(totals, key=lambda category: (-totals[category], category))
    if name in ORDERS:
        ordered = [category for category in ORDERS[name] if category in totals]
    listed = {category: category for category in ordered[:MOST_CATEGORIES]}
    found: dict[str, dict[Split, int]] = {category: {} for category in listed}
    for (other, category, split), number in sorted(counts.items()):
        if other == name:
            row = found.setdefault(listed.get(category, OTHERS), {})
            row[split] = row.get(split, 0) + number
    return found


def _compared(named: Votes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each label, the number of other labels of its comparison, and how many of these are the same."""
    _, comparison, number = np.unique(named["comparison"], return_inverse=True, return_counts=True)
    _, alike, same = np.unique(3 * comparison + named["label"], return_inverse=True, return_counts=True)
    return number[comparison] - 1, same[alike] - 1


def _agreement(named: Votes, others: NDArray[np.int64], equal: NDArray[np.int64]) -> AgreementFigures:
    """Source: Fleiss 1971, Psychological Bulletin 76(5), with comparisons weighted by their pairs of labels.

    Which of the two images is the first has no meaning here, so that chance gives each half of the preferences.
    """
    shared = others > 0
    if not shared.any():
        return AgreementFigures(num_comparisons=0, num_labels=0, agreement=None, by_chance=None)
    ties = float((named["label"][shared] == 1).mean())
    return AgreementFigures(
        num_comparisons=len(np.unique(named["comparison"][shared])),
        num_labels=int(shared.sum()),
        agreement=float(equal.sum() / others.sum()),
        by_chance=ties**2 + (1 - ties) ** 2 / 2,
    )


def _annotators(
    people: NDArray[np.bytes_], who: NDArray[np.intp], named: Votes, others: NDArray[np.int64],
    equal: NDArray[np.int64],
) -> tuple[AnnotatorFigures, ...]:  # fmt: skip
    def total(values: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(who, values, len(people)).astype(np.int64)

    pairs, ties, first = np.bincount(who), total(named["first"] == 1), total(named["first"] == 2)
    compared, same = total(others), total(equal)
    most = sorted(range(len(people)), key=lambda index: (-pairs[index], people[index]))[:MOST_ANNOTATORS]
    return tuple(
        AnnotatorFigures(
            annotator_id=people[index].decode(errors="replace"),
            num_pairs=int(pairs[index]),
            num_ties=int(ties[index]),
            first_share=_share(first[index], pairs[index] - ties[index]),
            num_compared=int(compared[index]),
            agreement=_share(same[index], compared[index]),
        )
        for index in most
    )


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
