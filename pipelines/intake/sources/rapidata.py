"""Read preference sets of Rapidata: about ten or more people compared each pair.

Newer sets state a share that is weighted by how reliable each person is, older ones counts.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipelines.intake.sources.catalogue import Rapidata
from pipelines.intake.sources.reading.column_map import mapped_pair
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import number, shared
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

_SHARE, _OTHER_SHARE = "weighted_results_image1_preference", "weighted_results_image2_preference"
_COUNTS = ColumnsSection(
    image_0="image1",
    image_1="image2",
    votes_0="votes_image1",
    votes_1="votes_image2",
    generator_0="model1",
    generator_1="model2",
)


class RapidataSource(RecordSource):
    """Prefers the weighted share where a set has both."""

    what = "a preference set of Rapidata"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the layout with counts and that with weighted shares."""
        return Rapidata.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the pair of a row."""
        pair = mapped_pair(record, _COUNTS)
        share = record.get(_SHARE)
        if share is None:
            return [pair]
        votes = pair.vote.num_votes if pair.vote else _num_people(record.get("detailed_results"))
        return [replace(pair, vote=shared(_normal(share, record.get(_OTHER_SHARE)), votes))]


def _normal(share: Any, other: Any) -> Any:
    """Return the share for image 1 where the two weights do not sum to 1."""
    first, second = number(share), number(other)
    if first is None or second is None or min(first, second) < 0 or first + second <= 0:
        return share
    return first / (first + second)


def _num_people(detailed: Any) -> int | None:
    """Return the number of answers in `detailed_results`, a list or its JSON; None where there is none."""
    if isinstance(detailed, str):
        try:
            detailed = json.loads(detailed)
        except (ValueError, RecursionError):
            return None
    return len(detailed) if isinstance(detailed, list) and detailed else None
