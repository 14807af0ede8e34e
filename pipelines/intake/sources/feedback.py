"""Read votes from a table in PostgreSQL or SQLite while rows are inserted.

A shard is a range of ids, so that a complete range which did not change is not read again. A row whose transaction
commits late, with a smaller id than others, changes the state of its range: the range is then a new version of its
shard, and nothing is lost as with a watermark on the largest id. A row that is deleted leaves in the same way.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.intake.sources.reading.layouts import layout_error, missing_column
from pipelines.intake.sources.reading.record_source import Pair, pair_batches
from pipelines.intake.sources.reading.votes import shared
from pipelines.project.sections import SourceSection
from pipelines.store.disk import local_path
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, RowMapping

TABLE = "feedback_votes"
ROWS_OF_A_SHARD = 1000
_COLUMNS = (
    *("id", "created_at", "prompt", "image_0", "image_1", "preference", "num_votes", "annotator"),
    *("generator_0", "generator_1"),
)
_CREATE = """
CREATE TABLE IF NOT EXISTS feedback_votes (
    id {id},
    created_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    prompt TEXT NOT NULL,
    image_0 {bytes} NOT NULL,
    image_1 {bytes} NOT NULL,
    preference DOUBLE PRECISION NOT NULL CHECK (preference BETWEEN 0 AND 1),
    num_votes INTEGER NOT NULL DEFAULT 1 CHECK (num_votes > 0),
    annotator TEXT,
    generator_0 TEXT,
    generator_1 TEXT,
    left_image INTEGER CHECK (left_image IN (0, 1))
)
"""
_TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "time": "TEXT", "bytes": "BLOB"},
    "postgresql": {
        "id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "time": "TIMESTAMP WITH TIME ZONE",
        "bytes": "BYTEA",
    },
}
_LABEL = "CASE WHEN preference BETWEEN 0 AND 1 THEN CAST(ROUND(preference * 1000000) AS BIGINT) ELSE -1 END"
_STATE = f"count(*), max(id), sum(id), sum({_LABEL}), sum(num_votes)"


class FeedbackSource:
    """Reads `preference` as the share of the votes for image 0."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List the ranges of ids that have rows; ValueError when the table does not exist or is empty."""
        with _connected(source) as connection:
            found = _ranges(connection)
        if not found:
            raise ValueError(f"Source {source.name!r}: table {TABLE} at {source.uri} has no votes yet.")
        return tuple(_shard(source, first, state) for first, state in found)

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Count the rows."""
        with _connected(source) as connection:
            found = _ranges(connection)
        return SourceFacts(num_shards=len(found), num_rows=sum(int(state[0]) for _, state in found))

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one range as it was listed; ValueError when it was changed since."""
        first = int(shard.shard.uri.rpartition("/")[2].partition("-")[0])
        last = int(shard.shard.fingerprint.partition("-")[0])
        with _connected(shard.source) as connection:
            if _shard(shard.source, first, _state(connection, first, last)).fingerprint != shard.shard.fingerprint:
                raise ValueError(
                    f"{shard.name}: votes {first} to {last} were changed after they were listed: a row was deleted,"
                    " corrected, or committed late. Run ingest again."
                )
            pairs = ((int(row["id"]), _pair(row)) for row in _rows(connection, first, last, rows=rows))
            yield from pair_batches(pairs, ImageFiles(shard.store, shard.store.root), rows)


def create_table(source: SourceSection) -> None:
    """Create the table of votes if it does not exist; an SQLite file is created too."""
    import sqlalchemy

    if not _is_server(source):
        _sqlite_path(source).parent.mkdir(parents=True, exist_ok=True)
    engine = _engine(source)
    with _failures(source), engine.begin() as connection:
        connection.execute(sqlalchemy.text(_CREATE.format(**_TYPES[engine.dialect.name])))
    engine.dispose()


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

    query = f"SELECT id / {ROWS_OF_A_SHARD}, {_STATE} FROM {TABLE} GROUP BY 1 ORDER BY 1"
    found = connection.execute(sqlalchemy.text(query)).all()
    return [(int(block) * ROWS_OF_A_SHARD, tuple(state)) for block, *state in found]


def _state(connection: "Connection", first: int, last: int) -> tuple[Any, ...]:
    import sqlalchemy

    query = sqlalchemy.text(f"SELECT {_STATE} FROM {TABLE} WHERE id BETWEEN :first AND :last")
    return tuple(connection.execute(query, {"first": first, "last": last}).one())


def _rows(connection: "Connection", first: int, last: int, *, rows: int) -> "Iterator[RowMapping]":
    import sqlalchemy

    query = f"SELECT {', '.join(_COLUMNS)} FROM {TABLE} WHERE id BETWEEN :first AND :last ORDER BY id"
    streaming = connection.execution_options(stream_results=True, yield_per=rows)
    yield from streaming.execute(sqlalchemy.text(query), {"first": first, "last": last}).mappings()


def _shard(source: SourceSection, first: int, state: tuple[Any, ...]) -> SourceShard:
    numbers = [int(value) if value is not None else 0 for value in state]
    digest = hashlib.sha256(canonical_json(numbers).encode()).hexdigest()
    last = first + ROWS_OF_A_SHARD - 1
    root = source.uri.rstrip("/") if _is_server(source) else normal_uri(source.uri)
    return SourceShard(
        source=source.name, uri=f"{root}/{first:012d}-{last:012d}", num_bytes=0, fingerprint=f"{numbers[1]}-{digest}"
    )


@contextmanager
def _connected(source: SourceSection) -> "Iterator[Connection]":
    """Open a transaction in which every query sees the same rows; ValueError when the table cannot be read."""
    import sqlalchemy

    if not _is_server(source) and not _sqlite_path(source).is_file():
        raise ValueError(f"Source {source.name!r}: {source.uri} does not exist. Run `plumbline feedback init` first.")
    engine = _engine(source)
    try:
        with _failures(source), engine.connect() as plain:
            connection = _one_snapshot(plain)
            inspector = sqlalchemy.inspect(connection)
            if not inspector.has_table(TABLE):
                raise ValueError(
                    f"Source {source.name!r}: {source.uri} has no table {TABLE}. Run `plumbline feedback init` first."
                )
            names = [column["name"] for column in inspector.get_columns(TABLE)]
            missing = [missing_column(own, names) for own in _COLUMNS if own not in names]
            if missing:
                raise layout_error(f"Table {TABLE} of {source.name!r}", "a table of votes", missing, names)
            yield connection
    finally:
        engine.dispose()


def _one_snapshot(connection: "Connection") -> "Connection":
    if connection.dialect.name != "sqlite":
        return connection.execution_options(isolation_level="REPEATABLE READ")
    driver: Any = connection.connection.driver_connection
    driver.text_factory = _text
    connection.exec_driver_sql("BEGIN")
    return connection


def _text(value: bytes) -> str | None:
    """Return a text of SQLite; None where it is not UTF-8, so that its row alone is refused."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


@contextmanager
def _failures(source: SourceSection) -> Iterator[None]:
    """Turn a failure of the database into a ValueError without the statement and its parameters."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise ValueError(
            f"Source {source.name!r}: {source.uri} cannot be used: {reason}. Check the address; the password of a"
            " server is read from PGPASSWORD or ~/.pgpass."
        ) from error


def _engine(source: SourceSection) -> "Engine":
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    if not _is_server(source):
        return sqlalchemy.create_engine(f"sqlite:///{_sqlite_path(source)}", poolclass=NullPool)
    url = sqlalchemy.make_url(source.uri)
    if url.get_backend_name() != "postgresql" or url.password is not None:
        raise ValueError(
            f"Source {source.name!r}: the address of a feedback source is an SQLite file or postgresql://USER@HOST/NAME"
            " without a password, which is read from PGPASSWORD or ~/.pgpass."
        )
    return sqlalchemy.create_engine(url.set(drivername="postgresql+psycopg2"), poolclass=NullPool)


def _is_server(source: SourceSection) -> bool:
    return "://" in source.uri and not source.uri.startswith("file://")


def _sqlite_path(source: SourceSection) -> Path:
    return local_path(normal_uri(source.uri))
