"""Votes of a ballot page in SQLite and in a real PostgreSQL, also in a table that an earlier version made."""

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from pipelines.intake.ingestion import list_source_shards
from pipelines.intake.sources.feedback import FeedbackSource
from pipelines.intake.sources.feedback_table import (
    BallotVote,
    create_table,
    prepare_ballots,
    record_vote,
    recorded_ballots,
    votes_on,
    withdraw_vote,
)
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

pytestmark = pytest.mark.timeout(180)
EARLIER = """
CREATE TABLE feedback_votes (
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
TYPES = {
    "sqlite": {"id": "INTEGER PRIMARY KEY AUTOINCREMENT", "time": "TEXT", "bytes": "BLOB"},
    "postgresql": {
        "id": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "time": "TIMESTAMP WITH TIME ZONE",
        "bytes": "BYTEA",
    },
}
OF_AN_APPLICATION = (
    "INSERT INTO feedback_votes (prompt, image_0, image_1, preference) VALUES ('a kite', :image, :image, 1)"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> SourceSection:
    """A source on an empty database of each kind."""
    uri = str(tmp_path / "feedback.db")
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        name = f"ballot_{uuid.uuid4().hex[:8]}"
        server.query("postgres", f"CREATE DATABASE {name}")
        uri = f"postgresql://postgres@127.0.0.1:{server.port}/{name}"
    return SourceSection(name="votes", kind="feedback", uri=uri, licence="CC0-1.0")


@contextlib.contextmanager
def writing(source: SourceSection) -> Iterator[sqlalchemy.Connection]:
    uri = source.uri
    address = uri.replace("postgresql://", "postgresql+psycopg2://") if "://" in uri else f"sqlite:///{uri}"
    with sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool).begin() as connection:
        yield connection


def rows_of(source: SourceSection) -> list[dict[str, Any]]:
    with writing(source) as connection:
        found = connection.execute(sqlalchemy.text("SELECT * FROM feedback_votes ORDER BY id")).mappings().all()
    return [dict(row) for row in found]


def vote(number: int = 0, **changes: Any) -> BallotVote:
    fields = {
        "ballot": f"ballot {number}",
        "prompt": f"a fox, {number}",
        "image_0": b"left %d" % number,
        "image_1": b"right %d" % number,
        "preference": 1.0,
        "annotator": "ada",
        "generator_0": "tiny version 3 cc",
        "generator_1": "tiny base bb",
        "evaluation": None,
    }
    return BallotVote(**{**fields, **changes})


def earlier_table(source: SourceSection) -> None:
    with writing(source) as connection:
        connection.execute(sqlalchemy.text(EARLIER.format(**TYPES[connection.dialect.name])))
        connection.execute(sqlalchemy.text(OF_AN_APPLICATION), {"image": b"x"})


def test_a_vote_is_a_row_with_its_position_and_a_second_one_is_none(source: SourceSection) -> None:
    create_table(source)
    prepare_ballots(source)
    assert record_vote(source, vote(0))
    assert not record_vote(source, vote(0, preference=0.0)), "the first vote stays"
    assert record_vote(source, vote(1, preference=0.5))
    first, second = rows_of(source)
    assert {name: first[name] for name in ("prompt", "preference", "annotator", "left_image", "evaluation")} == {
        **{"prompt": "a fox, 0", "preference": 1.0, "annotator": "ada", "left_image": 0, "evaluation": None}
    }
    assert (bytes(first["image_0"]), bytes(first["image_1"])) == (b"left 0", b"right 0")
    assert (first["num_votes"], first["created_at"] is not None, second["preference"]) == (1, True, 0.5)
    asked = [f"ballot {number}" for number in range(1200)]
    assert recorded_ballots(source, asked) == {"ballot 0", "ballot 1"}
    withdraw_vote(source, "ballot 0")
    withdraw_vote(source, "ballot 0")
    assert [row["ballot"] for row in rows_of(source)] == ["ballot 1"]


def test_of_votes_at_the_same_moment_one_is_written(source: SourceSection) -> None:
    create_table(source)
    written, barrier = list[bool](), threading.Barrier(4)

    def cast() -> None:
        barrier.wait()
        written.append(record_vote(source, vote(0)))

    threads = [threading.Thread(target=cast) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [False, False, False, True]
    assert len(rows_of(source)) == 1


def test_a_table_of_an_earlier_version_is_read_and_then_written(source: SourceSection, settings: Settings) -> None:
    store, reader = open_store(settings.store_uri), FeedbackSource()
    earlier_table(source)
    (before,) = reader.list_shards(source, store)
    assert votes_on(source, "e") == []
    for _ in range(2):
        prepare_ballots(source)
    assert reader.list_shards(source, store) == (before,), "the range is not read again"
    assert record_vote(source, vote(0))
    with writing(source) as connection:
        connection.execute(sqlalchemy.text(OF_AN_APPLICATION), {"image": b"y"})
    assert [row["ballot"] for row in rows_of(source)] == [None, "ballot 0", None]
    assert reader.inspect(source, store).num_rows == 3
    with writing(source) as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
        connection.execute(sqlalchemy.text("UPDATE feedback_votes SET ballot = 'ballot 0'"))


def test_init_adds_the_columns_too(source: SourceSection) -> None:
    earlier_table(source)
    create_table(source)
    assert record_vote(source, vote(0))


def test_votes_on_an_evaluation_are_not_a_source_of_pairs(
    source: SourceSection, settings: Settings, read: Callable[..., list[dict[str, Any]]]
) -> None:
    store, reader = open_store(settings.store_uri), FeedbackSource()
    create_table(source)
    assert reader.list_shards(source, store) == ()
    assert record_vote(source, vote(0, evaluation="e"))
    assert reader.list_shards(source, store) == ()
    assert record_vote(source, vote(1))
    (before,) = reader.list_shards(source, store)
    assert record_vote(source, vote(2, evaluation="e", preference=0.0))
    assert reader.list_shards(source, store) == (before,)
    assert reader.inspect(source, store).num_rows == 1
    assert [row["prompt"] for row in read("feedback", source.uri)] == ["a fox, 1"]
    own = ("tiny version 3 cc", "tiny base bb")
    assert votes_on(source, "e") == [("a fox, 0", *own, 1.0), ("a fox, 2", *own, 0.0)]
    assert votes_on(source, "f") == []


def test_a_ballot_needs_the_table(source: SourceSection) -> None:
    with pytest.raises(ValueError, match="Run `plumbline feedback init` first"):
        prepare_ballots(source)


def test_a_table_without_votes_does_not_stop_the_other_sources(
    source: SourceSection, tiny_project: Project, settings: Settings, tiny_pairs: Any, tiny_row: Any
) -> None:
    """A project gets the table before its first candidate exists to vote on."""
    create_table(source)
    tiny_pairs([tiny_row(0), tiny_row(1)])
    project = tiny_project.model_copy(update={"sources": (*tiny_project.sources, source)})
    (shard,) = list_source_shards(Workspace(project, settings))
    assert shard.source == "tiny_pairs"
