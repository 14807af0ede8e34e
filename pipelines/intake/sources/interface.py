"""The interface of a kind of preference source, and the columns it returns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.project.sections import SourceSection
from pipelines.store.storage import Store

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("prompt", pa.string()),
        pa.field("caption_0", pa.string()),  # null: the image has no separate caption
        pa.field("caption_1", pa.string()),
        pa.field("image_0", pa.binary()),  # encoded bytes, unchanged
        pa.field("image_1", pa.binary()),
        pa.field("label_0", pa.float64()),
        pa.field("label_1", pa.float64()),
        pa.field("has_label", pa.bool_()),
        pa.field("preference", pa.float64()),  # 1: image 0 preferred, 0: image 1, 0.5: tie, NaN: not a legal label
        pa.field("user_id", pa.string()),  # clear text; ingest replaces it by a hash
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("generator_0", pa.string()),
        pa.field("generator_1", pa.string()),
    ]
)
VOTE_FIELDS = (
    pa.field("num_votes", pa.int64()),  # people behind the label; null: the source states a share without a number
    pa.field("weight", pa.float64()),  # 1, or less where one ranking became several pairs
)
VOTES_SCHEMA = pa.schema(
    [*SOURCE_SCHEMA, *VOTE_FIELDS, pa.field("source_row", pa.int64())]  # the record that the pair is made from
)
"""Columns of a source whose labels are votes: `preference` is the share of the votes for image 0, in [0, 1]."""


@dataclass(frozen=True)
class OpenShard:
    """A shard and all that is needed to read it."""

    shard: SourceShard
    name: str
    """Path of the shard in its source, for error messages."""
    source: SourceSection
    store: Store
    scratch: Path
    """Folder for a local copy of a shard that is on S3."""
    max_image_bytes: int = 20_000_000
    """Largest image that is fetched by address, in bytes."""

    def local_path(self) -> Path:
        """Return the shard as a local file; ValueError when it does not exist."""
        return self.store.local_path(self.shard.uri, self.scratch)


class PairSource(Protocol):
    """A kind of source. Stateless."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every shard that exists now, sorted by URI; ValueError when there is none."""
        ...

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Look at the shards without reading pairs.

        ValueError when there is none, or one is not of this kind; it names every column that is missing or wrong.
        """
        ...

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one shard in SOURCE_SCHEMA or VOTES_SCHEMA, at most `rows` at a time, or more small ones.

        ValueError naming the shard when it cannot be read to its end or lacks a column.
        """
        ...
