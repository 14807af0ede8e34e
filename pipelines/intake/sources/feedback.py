"""Read votes from a table in PostgreSQL or SQLite while rows are inserted.

A shard is a range of ids, so that a complete range which did not change is not read again. A row whose transaction
commits late, with a smaller id than others, changes the state of its range: the range is then a new version of its
shard, and nothing is lost as with a watermark on the largest id. A row that is deleted leaves in the same way. Votes
on the images of an evaluation are left out: their prompts are held out.
"""

import hashlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.feedback_table import COLUMNS, TABLE, connected, is_server, training_rows
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.intake.sources.reading.record_source import Pair, pair_batches
from pipelines.intake.sources.reading.votes import shared
from pipelines.project.sections import SourceSection
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

log = logging.getLogger(__name__)

ROWS_OF_A_SHARD = 1000
_LABEL = "CASE WHEN preference BETWEEN 0 AND 1 THEN CAST(ROUND(preference * 1000000) AS BIGINT) ELSE -1 END"
_STATE = f"count(*), max(id), sum(id), sum({_LABEL}), sum(num_votes)"


class FeedbackSource:
    """Reads `preference` as the share of the votes for image 0."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List the ranges of ids that have votes to train on; ValueError when the table does not exist.

        A table without such votes is a warning: it must not stop the other sources.
        """
        with connected(source) as connection:
            found = _ranges(connection)
        if not found:
            log.warning("Source %r: table %s at %s has no votes to train on yet.", source.name, TABLE, source.uri)
        return tuple(_shard(source, first, state) for first, state in found)

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Count the rows."""
        with connected(source) as connection:
            found = _ranges(connection)
        return SourceFacts(num_shards=len(found), num_rows=sum(int(state[0]) for _, state in found))

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one range as it was listed; ValueError when it was changed since."""
        first = int(shard.shard.uri.rpartition("/")[2].partition("-")[0])
        last = int(shard.shard.fingerprint.partition("-")[0])
        with connected(shard.source) as connection:
            if _shard(shard.source, first, _state(connection, first, last)).fingerprint != shard.shard.fingerprint:
                raise ValueError(
                    f"{shard.name}: votes {first} to {last} were changed after they were listed: a row was deleted,"
                    " corrected, or committed late. Run ingest again."
                )
            pairs = ((int(row["id"]), _pair(row)) for row in _rows(connection, first, last, rows=rows))
            yield from pair_batches(pairs, ImageFiles(shard.store, shard.store.root), rows)


def _pair(row: "RowMapping") -> Pair:
    votes = row["num_votes"]
    return Pair(
        prompt=row["prompt"],
        image_0=_only_bytes(row["image_0"]),
        image_1=_only_bytes(row["image_1"]),
        vote=shared(row["preference"], votes),
        annotator=row["annotator"],
        created_at=row["created_at"],
        generators=(row["generator_0"], row["generator_1"]),
    )


def _only_bytes(value: Any) -> bytes | None:
    """Return bytes; a text is no image here, so that nobody who may vote can name a file of this host."""
    return bytes(value) if isinstance(value, (bytes, memoryview)) else None


def _ranges(connection: "Connection") -> list[tuple[int, tuple[Any, ...]]]:
    """Return (first id, state) of each range with rows, in order."""
    import sqlalchemy

    source = f"{TABLE} WHERE {training_rows(connection)}"
    query = f"SELECT id / {ROWS_OF_A_SHARD}, {_STATE} FROM {source} GROUP BY 1 ORDER BY 1"
    found = connection.execute(sqlalchemy.text(query)).all()
    return [(int(block) * ROWS_OF_A_SHARD, tuple(state)) for block, *state in found]


def _state(connection: "Connection", first: int, last: int) -> tuple[Any, ...]:
    import sqlalchemy

    query = f"SELECT {_STATE} FROM {TABLE} WHERE id BETWEEN :first AND :last AND {training_rows(connection)}"
    return tuple(connection.execute(sqlalchemy.text(query), {"first": first, "last": last}).one())


def _rows(connection: "Connection", first: int, last: int, *, rows: int) -> "Iterator[RowMapping]":
    import sqlalchemy

    condition = f"id BETWEEN :first AND :last AND {training_rows(connection)}"
    query = f"SELECT {', '.join(COLUMNS)} FROM {TABLE} WHERE {condition} ORDER BY id"
    streaming = connection.execution_options(stream_results=True, yield_per=rows)
    yield from streaming.execute(sqlalchemy.text(query), {"first": first, "last": last}).mappings()


def _shard(source: SourceSection, first: int, state: tuple[Any, ...]) -> SourceShard:
    numbers = [int(value) if value is not None else 0 for value in state]
    digest = hashlib.sha256(canonical_json(numbers).encode()).hexdigest()
    last = first + ROWS_OF_A_SHARD - 1
    root = source.uri.rstrip("/") if is_server(source) else normal_uri(source.uri)
    return SourceShard(
        source=source.name, uri=f"{root}/{first:012d}-{last:012d}", num_bytes=0, fingerprint=f"{numbers[1]}-{digest}"
    )
