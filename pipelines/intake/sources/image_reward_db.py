"""Read ImageRewardDB: a row for each image with its rank among the images of one prompt, or a row for each pair."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.intake.sources.catalogue import ImageRewardDb
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import Vote, ranked_pairs
from pipelines.project.sections import SourceSection

_MAXIMUM_RANKING = 64
"""Most images of one ranking; the data set has at most nine. More rows of one prompt are read as several rankings."""


class ImageRewardDbSource(RecordSource):
    """Expands the ranking of a prompt into its pairs; rank 1 is the best. Rows of one prompt must follow each other."""

    what = "a table of ImageRewardDB"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the layouts by image and by pair."""
        return ImageRewardDb.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the pair of a row that holds two images."""
        return [Pair(record.get("prompt"), record.get("img_better"), record.get("img_worse"), Vote(1.0))]

    def pairs_of_file(self, records: Iterable[Record], source: SourceSection) -> Iterator[tuple[int, Pair]]:
        """Yield the pairs of each ranking, numbered by the row of its first image."""
        for first, group in _rankings(records):
            if "img_better" in group[0]:
                yield from ((first, pair) for pair in self.pairs(group[0], source))
            else:
                yield from ((first, pair) for pair in _expanded(group))


def _rankings(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """Yield (row of the first, records) of consecutive records of one prompt; a row without a prompt_id stays alone."""
    group: list[Record] = []
    first = 0
    for row, record in enumerate(records):
        key = record.get("prompt_id")
        if group and (key is None or key != group[0].get("prompt_id") or len(group) == _MAXIMUM_RANKING):
            yield first, group
            group = []
        if not group:
            first = row
        group.append(record)
    if group:
        yield first, group


def _expanded(group: list[Record]) -> Iterator[Pair]:
    """Yield the pairs of a ranking; a single image is a pair without a second one, which goes to quarantine."""
    prompt = group[0].get("prompt")
    if len(group) == 1:
        yield Pair(prompt, _image(group[0]), None, Vote(1.0))
    for found in ranked_pairs([record.get("rank") for record in group]):
        yield Pair(prompt, _image(group[found.first]), _image(group[found.second]), found.vote, weight=found.weight)


def _image(record: Record) -> Any:
    return record.get("image") or record.get("image_path")
