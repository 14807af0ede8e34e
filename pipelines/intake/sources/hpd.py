"""Read HPDv2 and HPDv3: JSON files that name images by path.

- HPDv2 train: two paths and `human_preference`, 1 for the preferred image. `user_hash` is the annotator.
- HPDv2 test: several paths and `rank`, 1 for the best. With `raw_annotations` each pair gets the share of the people
  that ranked one above the other.
- HPDv3: `path1` is the preferred image. `choice_dist` holds the numbers of votes, whose larger one is then path1's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.intake.sources.catalogue import Hpd
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import ILLEGAL, Vote, counted, number, ranked_pairs
from pipelines.project.sections import SourceSection


class HpdSource(RecordSource):
    """Expands a ranking of k images into its pairs."""

    what = "an HPD file"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the layouts of HPDv2 (train, test) and HPDv3."""
        return Hpd.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the comparisons of a row."""
        if "path1" in record:
            return [_version_3(record)]
        paths = _sequence(record.get("image_path") or record.get("file_path"))
        if "rank" in record:
            return _ranking(record, paths)
        return [_comparison(record, paths)]


def _version_3(record: Record) -> Pair:
    votes = _sequence(record.get("choice_dist"))
    vote = Vote(1.0)
    if votes:
        known = len(votes) == 2 and all(number(value) is not None for value in votes)
        vote = counted(*sorted(votes, key=float, reverse=True)) if known else ILLEGAL
    return Pair(
        record.get("prompt"),
        record.get("path1"),
        record.get("path2"),
        vote,
        generators=(record.get("model1"), record.get("model2")),
    )


def _comparison(record: Record, paths: Sequence[Any]) -> Pair:
    preferred = _sequence(record.get("human_preference"))
    first, second = _two(paths)
    vote = counted(*preferred) if len(preferred) == len(paths) == 2 else ILLEGAL
    return Pair(record.get("prompt"), first, second, vote, annotator=record.get("user_hash"))


def _ranking(record: Record, paths: Sequence[Any]) -> Iterator[Pair]:
    ranks = _sequence(record.get("rank"))
    if len(ranks) != len(paths) or len(paths) < 2:
        yield Pair(record.get("prompt"), *_two(paths), vote=ILLEGAL)
        return
    people = [one for one in _sequence(record.get("raw_annotations")) if isinstance(one, Mapping)]
    for found in ranked_pairs(ranks, [_sequence(one.get("rank")) for one in people]):
        yield Pair(record.get("prompt"), paths[found.first], paths[found.second], found.vote, weight=found.weight)


def _two(paths: Sequence[Any]) -> tuple[Any, Any]:
    """Return the first two paths, None where there are fewer."""
    first, second, *_ = (*paths, None, None)
    return first, second


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
