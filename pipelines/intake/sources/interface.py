"""The interface of a kind of preference source. The columns it returns are in columns.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.project.sections import SourceSection
from pipelines.store.storage import Store


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
        """Yield the rows of one shard in SOURCE_SCHEMA, VOTES_SCHEMA or UNPAIRED_SCHEMA.

        At most `rows` at a time, or more small ones.

        ValueError naming the shard when it cannot be read to its end or lacks a column.
        """
        ...
