"""Turn a record into a pair by a map of its columns."""

from collections.abc import Sequence
from typing import Any

from pipelines.intake.sources.reading.record_source import Pair
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import Vote, chosen, counted, shared
from pipelines.project.columns import ColumnsSection


def mapped_pair(record: Record, columns: ColumnsSection, *, ties: Sequence[str] = ()) -> Pair:
    """Return the pair of a record. `ties` are more values of `choice` that mean a tie."""
    get = record.get
    resolved = bool(columns.chosen)
    return Pair(
        prompt=get(columns.prompt),
        image_0=get(columns.chosen if resolved else columns.image_0),
        image_1=get(columns.rejected if resolved else columns.image_1),
        vote=Vote(1.0) if resolved else _vote(record, columns, ties),
        annotator=get(columns.annotator),
        created_at=get(columns.created_at),
        generators=(get(columns.generator_0), get(columns.generator_1)),
        captions=(get(columns.caption_0), get(columns.caption_1)),
    )


def _vote(record: Record, columns: ColumnsSection, ties: Sequence[str]) -> Vote | None:
    """Return the label; None where all its columns are empty."""
    if columns.choice:
        return chosen(record.get(columns.choice), columns.choice_0, columns.choice_1, (columns.choice_tie, *ties))
    names = (columns.votes_0, columns.votes_1) if columns.votes_0 else (columns.preference,)
    values: list[Any] = [record.get(name) for name in names]
    if all(value is None for value in values):
        return None
    if columns.votes_0:
        return counted(*values)
    return shared(values[0], record.get(columns.num_votes) if columns.num_votes else None)
