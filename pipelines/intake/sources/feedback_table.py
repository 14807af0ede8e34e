"""The table of votes in PostgreSQL or SQLite: its columns, its connection, and the votes of a ballot page.

An application inserts rows itself. A ballot page also fills `ballot`, which is unique, so that a vote that is sent
twice is one row, and `evaluation` for a vote on held-out prompts: such a row is read by `gate people` and never trains.
Both are null in the rows of an application.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.contracts.values import Record
from pipelines.intake.sources.reading.layouts import layout_error, missing_column
from pipelines.project.sections import SourceSection
from pipelines.store.disk import local_path
from pipelines.store.folders import normal_uri

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

TABLE = "feedback_votes"
COLUMNS = (
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
    left_image INTEGER CHECK (left_image IN (0, 1)),
    ballot TEXT,
    evaluation TEXT
)
"""
_ADDED = ("ballot", "evaluation")
"""Columns, all of type TEXT, that a table made by an earlier version lacks."""
_INDEXES = (
    f"CREATE UNIQUE INDEX IF NOT EXISTS {TABLE}_ballot ON {TABLE} (ballot)",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_evaluation ON {TABLE} (evaluation)",
)
_TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "time": "TEXT", "bytes": "BLOB"},
    "postgresql": {
        "id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "time": "TIMESTAMP WITH TIME ZONE",
        "bytes": "BYTEA",
    },
}
_INSERT = """
INSERT INTO feedback_votes (
    prompt, image_0, image_1, preference, annotator, generator_0, generator_1, left_image, ballot, evaluation
) VALUES (
    :prompt, :image_0, :image_1, :preference, :annotator, :generator_0, :generator_1, 0, :ballot, :evaluation
) ON CONFLICT (ballot) DO NOTHING
"""
_BALLOTS_OF_A_QUERY = 500


class BallotVote(Record):
    """One row that a ballot page writes. The image that was shown on the left is image 0."""

    ballot: str
    """Identifies annotator and pair; a second vote with the same one is not recorded."""
    prompt: str
    image_0: bytes
    image_1: bytes
    preference: float
    annotator: str
    generator_0: str
    generator_1: str
    evaluation: str | None
    """Digest of the evaluation report whose images were shown; None for a vote to train on."""


def create_table(source: SourceSection) -> None:
    """Create the table of votes if it does not exist; an SQLite file is created too. Add the columns that it lacks."""
    import sqlalchemy

    if not is_server(source):
        _sqlite_path(source).parent.mkdir(parents=True, exist_ok=True)
    with _writing(source) as connection:
        connection.execute(sqlalchemy.text(_CREATE.format(**_TYPES[connection.dialect.name])))
        _add_columns(connection)


def prepare_ballots(source: SourceSection) -> None:
    """Check that the table exists and can be written, and add the columns that an earlier version's table lacks.

    ValueError when there is no table.
    """
    with connected(source) as connection:
        lacking = len(_added(connection)) < len(_ADDED)
    if lacking:
        with _writing(source) as connection:
            _add_columns(connection)


def record_vote(source: SourceSection, vote: BallotVote) -> bool:
    """Insert a vote and commit; False when its ballot was recorded before, whose row stays as it is."""
    import sqlalchemy

    with _writing(source) as connection:
        return connection.execute(sqlalchemy.text(_INSERT), vote.model_dump()).rowcount == 1


def withdraw_vote(source: SourceSection, ballot: str) -> None:
    """Delete the vote of a ballot, if there is one."""
    import sqlalchemy

    with _writing(source) as connection:
        connection.execute(sqlalchemy.text(f"DELETE FROM {TABLE} WHERE ballot = :ballot"), {"ballot": ballot})


def recorded_ballots(source: SourceSection, ballots: Sequence[str]) -> set[str]:
    """Return those of the ballots that have a vote."""
    import sqlalchemy

    query = sqlalchemy.text(f"SELECT ballot FROM {TABLE} WHERE ballot IN :ballots")
    query = query.bindparams(sqlalchemy.bindparam("ballots", expanding=True))
    found: set[str] = set()
    with connected(source) as connection:
        for start in range(0, len(ballots), _BALLOTS_OF_A_QUERY):
            some = list(ballots[start : start + _BALLOTS_OF_A_QUERY])
            found.update(connection.execute(query, {"ballots": some}).scalars())
    return found


def votes_on(source: SourceSection, evaluation: str) -> list[tuple[str, str, str, float]]:
    """Return prompt, generators of both images and preference of every vote on the images of an evaluation."""
    import sqlalchemy

    query = f"SELECT prompt, generator_0, generator_1, preference FROM {TABLE} WHERE evaluation = :evaluation"
    with connected(source) as connection:
        if "evaluation" not in _added(connection):
            return []
        rows = connection.execute(sqlalchemy.text(f"{query} ORDER BY id"), {"evaluation": evaluation}).all()
    return [(str(prompt), str(own), str(other), float(share)) for prompt, own, other, share in rows]


def training_rows(connection: "Connection") -> str:
    """Return the SQL condition of the rows that may train: all but votes on the images of an evaluation."""
    return "evaluation IS NULL" if "evaluation" in _added(connection) else "1 = 1"


def _added(connection: "Connection") -> set[str]:
    """Return those of the added columns that the table has."""
    import sqlalchemy

    return {str(column["name"]) for column in sqlalchemy.inspect(connection).get_columns(TABLE)} & set(_ADDED)


def _add_columns(connection: "Connection") -> None:
    for name in _ADDED:
        if name not in _added(connection):
            connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD COLUMN {name} TEXT")
    for index in _INDEXES:
        connection.exec_driver_sql(index)


@contextmanager
def _writing(source: SourceSection) -> "Iterator[Connection]":
    """Open a transaction that is committed at the end."""
    engine = _engine(source)
    try:
        with _failures(source), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def connected(source: SourceSection) -> "Iterator[Connection]":
    """Open a transaction in which every query sees the same rows; ValueError when the table cannot be read."""
    import sqlalchemy

    if not is_server(source) and not _sqlite_path(source).is_file():
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
            missing = [missing_column(own, names) for own in COLUMNS if own not in names]
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

    if not is_server(source):
        return sqlalchemy.create_engine(f"sqlite:///{_sqlite_path(source)}", poolclass=NullPool)
    url = sqlalchemy.make_url(source.uri)
    if url.get_backend_name() != "postgresql" or url.password is not None:
        raise ValueError(
            f"Source {source.name!r}: the address of a feedback source is an SQLite file or postgresql://USER@HOST/NAME"
            " without a password, which is read from PGPASSWORD or ~/.pgpass."
        )
    return sqlalchemy.create_engine(url.set(drivername="postgresql+psycopg2"), poolclass=NullPool)


def is_server(source: SourceSection) -> bool:
    return "://" in source.uri and not source.uri.startswith("file://")


def _sqlite_path(source: SourceSection) -> Path:
    return local_path(normal_uri(source.uri))
