"""Read likes and dislikes of single images: any table with a prompt, an image and a vote in each row."""

from collections.abc import Iterable
from typing import ClassVar

import pyarrow as pa

from pipelines.intake.sources.catalogue import Likes
from pipelines.intake.sources.columns import UNPAIRED_SCHEMA
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import liked
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

_USUAL = ColumnsSection(
    image="image", liked="liked", annotator="annotator", created_at="created_at", generator_0="generator"
)
"""Columns of a table that the project does not describe; those after `liked` may be missing."""


class LikesSource(RecordSource):
    """Reads parquet, CSV, TSV, JSON and JSON Lines."""

    what = "a table of likes and dislikes"
    schema: ClassVar[pa.Schema] = UNPAIRED_SCHEMA

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the columns that the project names, or the usual ones."""
        return (source.columns.named(),) if source.columns else Likes.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the image of a row as a pair without a second image."""
        columns = source.columns or _USUAL
        get = record.get
        image = Pair(
            prompt=get(columns.prompt),
            image_0=get(columns.image),
            image_1=None,
            vote=liked(get(columns.liked)),
            annotator=get(columns.annotator),
            created_at=get(columns.created_at),
            generators=(get(columns.generator_0), None),
            captions=(get(columns.caption_0), None),
        )
        return [image]
