"""Votes in SQLite and in a real PostgreSQL, read while rows are inserted."""

import contextlib
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.pairs import PAIRS_FILE
from pipelines.intake.sources import feedback
from pipelines.intake.sources.feedback import FeedbackSource
from pipelines.intake.sources.feedback_table import create_table
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

pytestmark = pytest.mark.timeout(180)
Read = Callable[..., list[dict[str, Any]]]
INSERT = (
    "INSERT INTO feedback_votes (prompt, image_0, image_1, preference, num_votes, annotator, generator_0)"
    " VALUES (:prompt, :image_0, :image_1, :preference, :num_votes, :annotator, 'flux')"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "feedback.db")
        return
    server = request.getfixturevalue("postgres")
    name = f"feedback_{uuid.uuid4().hex[:8]}"
    server.query("postgres", f"CREATE DATABASE {name}")
    yield f"postgresql://postgres@127.0.0.1:{server.port}/{name}"


def source_of(uri: str) -> SourceSection:
    return SourceSection(name="votes", kind="feedback", uri=uri, licence="CC0-1.0")


def connect(uri: str) -> sqlalchemy.Connection:
    address = uri.replace("postgresql://", "postgresql+psycopg2://") if "://" in uri else f"sqlite:///{uri}"
    return sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool).connect()


def insert(connection: sqlalchemy.Connection, first: int, count: int, **changes: Any) -> None:
    row = {"prompt": "a fox", "preference": 0.75, "num_votes": 4, "annotator": "ann"}
    rows = [
        {**row, "image_0": f"{n}-0".encode(), "image_1": f"{n}-1".encode(), **changes}
        for n in range(first, first + count)
    ]
    connection.execute(sqlalchemy.text(INSERT), rows)


def test_votes_are_read_as_shares(uri: str, read: Read) -> None:
    create_table(source_of(uri))
    create_table(source_of(uri))
    with connect(uri) as connection, connection.begin():
        insert(connection, 0, 3)
        insert(connection, 3, 1, preference=0.0, num_votes=1, annotator=None)
    found = read("feedback", uri)
    assert [row["source_row"] for row in found] == [1, 2, 3, 4]
    assert (found[0]["image_0"], found[0]["image_1"]) == (b"0-0", b"0-1")
    assert (found[0]["label_0"], found[0]["label_1"], found[0]["num_votes"], found[0]["user_id"]) == (
        0.75,
        0.25,
        4,
        "ann",
    )
    assert (found[3]["preference"], found[3]["user_id"]) == (0.0, None)
    assert found[0]["created_at"] is not None


def test_a_range_that_did_not_change_is_not_read_again(
    uri: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(feedback, "ROWS_OF_A_SHARD", 4)
    create_table(source_of(uri))
    store = open_store(settings.store_uri)
    with connect(uri) as connection, connection.begin():
        insert(connection, 0, 6)
    before = FeedbackSource().list_shards(source_of(uri), store)
    assert [shard.uri.rpartition("/")[2] for shard in before] == [
        "000000000000-000000000003",
        "000000000004-000000000007",
    ]
    with connect(uri) as connection, connection.begin():
        insert(connection, 6, 4)
    after = FeedbackSource().list_shards(source_of(uri), store)
    assert [shard.uri for shard in after[:2]] == [shard.uri for shard in before]
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=False)] == [True, False]
    assert len(after) == 3
    assert FeedbackSource().inspect(source_of(uri), store).num_rows == 10
    with connect(uri) as connection, connection.begin():
        connection.execute(sqlalchemy.text("UPDATE feedback_votes SET preference = 0.5 WHERE id = 2"))
        connection.execute(sqlalchemy.text("DELETE FROM feedback_votes WHERE id = 7"))
    changed = FeedbackSource().list_shards(source_of(uri), store)
    assert [a.fingerprint == b.fingerprint for a, b in zip(after, changed, strict=True)] == [False, False, True]


@pytest.fixture
def project(tiny_project: Project, uri: str) -> Project:
    return tiny_project.model_copy(update={"sources": (source_of(uri),)})


def ingested(project: Project, settings: Settings) -> list[tuple[int, str]]:
    """Ingest every shard; return (id, prompt) of the rows."""
    import pyarrow.parquet as pq

    workspace, found = Workspace(project, settings), []
    for shard in list_source_shards(workspace):
        batch = ingest(shard, workspace)
        assert ingest(shard, workspace) == batch
        table = pq.read_table(Path(batch.uri.removeprefix("file://")) / PAIRS_FILE)
        found += list(zip(table["source_row"].to_pylist(), table["prompt"].to_pylist(), strict=True))
    return found


def test_rows_that_are_inserted_between_listing_and_reading_come_with_the_next_listing(
    project: Project, uri: str, settings: Settings
) -> None:
    create_table(source_of(uri))
    workspace = Workspace(project, settings)
    with connect(uri) as connection, connection.begin():
        insert(connection, 0, 3)
    (listed,) = list_source_shards(workspace)
    with connect(uri) as connection, connection.begin():
        insert(connection, 3, 2)
    assert ingest(listed, workspace).num_rows == 3
    assert [row for row, _ in ingested(project, settings)] == [1, 2, 3, 4, 5]
    with connect(uri) as connection, connection.begin():
        connection.execute(sqlalchemy.text("DELETE FROM feedback_votes WHERE id > 3"))
    assert [row for row, _ in ingested(project, settings)] == [1, 2, 3]
    with connect(uri) as connection, connection.begin():
        insert(connection, 9, 1)
    (listed,) = list_source_shards(workspace)
    with connect(uri) as connection, connection.begin():
        connection.execute(sqlalchemy.text("DELETE FROM feedback_votes WHERE id = 2"))
    with pytest.raises(ValueError, match=r"were changed after they were listed.*Run ingest again"):
        ingest(listed, workspace)


def test_a_transaction_that_commits_late_loses_nothing(
    request: pytest.FixtureRequest, tiny_project: Project, settings: Settings
) -> None:
    server = request.getfixturevalue("postgres")
    name = f"feedback_{uuid.uuid4().hex[:8]}"
    server.query("postgres", f"CREATE DATABASE {name}")
    uri = f"postgresql://postgres@127.0.0.1:{server.port}/{name}"
    project = tiny_project.model_copy(update={"sources": (source_of(uri),)})
    create_table(source_of(uri))
    with connect(uri) as slow, connect(uri) as fast:
        insert(slow, 0, 2, prompt="slow")
        with fast.begin():
            insert(fast, 2, 2, prompt="fast")
        assert ingested(project, settings) == [(3, "fast"), (4, "fast")]
        slow.commit()
    assert ingested(project, settings) == [(1, "slow"), (2, "slow"), (3, "fast"), (4, "fast")]


def test_votes_that_are_inserted_all_the_time_are_neither_lost_nor_doubled(
    project: Project, uri: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "ROWS_OF_A_SHARD", 16)
    create_table(source_of(uri))
    stop = threading.Event()

    def vote() -> None:
        with connect(uri) as connection:
            for number in range(60):
                with connection.begin():
                    insert(connection, 10 * number, 3)
                if stop.wait(0.01):
                    return

    writers = [threading.Thread(target=vote) for _ in range(1 if "://" not in uri else 3)]
    with connect(uri) as connection, connection.begin():
        insert(connection, 0, 1)
    for writer in writers:
        writer.start()
    seen: set[int] = set()
    for _ in range(3):
        rows = []
        # A late commit in between fails this ingest, and the next one reads its row.
        with contextlib.suppress(ValueError):
            rows = [row for row, _ in ingested(project, settings)]
        if not rows:
            continue
        assert len(rows) == len(set(rows))
        assert seen <= set(rows)
        seen = set(rows)
    stop.set()
    for writer in writers:
        writer.join()
    with connect(uri) as connection:
        every = [row[0] for row in connection.execute(sqlalchemy.text("SELECT id FROM feedback_votes ORDER BY id"))]
    assert [row for row, _ in ingested(project, settings)] == every


def test_a_row_of_another_application_is_read_without_failing(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with sqlite3.connect(path) as connection:
        names = ("created_at", "prompt", "image_0", "image_1", "preference", "num_votes", "annotator", "generator_0")
        connection.execute(f"CREATE TABLE feedback_votes (id INTEGER PRIMARY KEY, {', '.join(names)}, generator_1)")
        rows = [
            ("soon", b"\xff", "/etc/passwd", b"x", "much", -1, 7, None, None),
            (None,) * 9,
            (5, "p", b"a", b"b", 1, 1, *[None] * 3),
        ]
        marks = ", ".join("?" * 9)
        connection.executemany(f"INSERT INTO feedback_votes ({', '.join(names)}, generator_1) VALUES ({marks})", rows)
        connection.execute("INSERT INTO feedback_votes (prompt) VALUES (CAST(x'ff' AS TEXT))")
    connection.close()
    found = read("feedback", path)
    assert [row["image_0"] for row in found] == [None, None, b"a", None], "a text is never read as a path"
    assert [row["label_0"] for row in found] == [None, None, 1.0, None]
    assert [row["prompt"] for row in found] == [None, None, "p", None]


def test_what_is_missing_is_named_with_the_next_step(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "feedback.db"
    with pytest.raises(ValueError, match=r"does not exist\. Run `plumbline feedback init` first"):
        read("feedback", path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (id)")
    connection.close()
    with pytest.raises(ValueError, match=r"has no table feedback_votes\. Run `plumbline feedback init` first"):
        read("feedback", path)
    create_table(source_of(str(path)))
    assert read("feedback", path) == []
    assert "has no votes to train on yet" in caplog.text
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE feedback_votes RENAME COLUMN prompt TO promt")
    connection.close()
    with pytest.raises(ValueError, match=r"is not a table of votes: no column 'prompt' \(did you mean 'promt'\?\)"):
        read("feedback", path)


def test_a_password_is_not_in_the_project_file(read: Read) -> None:
    with pytest.raises(ValueError, match="without a password, which is read from PGPASSWORD") as error:
        read("feedback", "postgresql://ann:sesame@127.0.0.1:9/votes")
    assert "sesame" not in str(error.value)
    with pytest.raises(ValueError, match=r"cannot be used: connection to server .* failed"):
        read("feedback", "postgresql://ann@127.0.0.1:9/votes")


def test_the_state_of_a_range_is_that_of_its_rows_and_not_of_their_number(tmp_path: Path, settings: Settings) -> None:
    fingerprints = set()
    for deleted in (1, 2):
        path = tmp_path / f"{deleted}.db"
        create_table(source_of(str(path)))
        with connect(str(path)) as connection, connection.begin():
            insert(connection, 0, 3)
            connection.execute(sqlalchemy.text(f"DELETE FROM feedback_votes WHERE id = {deleted}"))
        (shard,) = FeedbackSource().list_shards(source_of(str(path)), open_store(settings.store_uri))
        fingerprints.add(shard.fingerprint)
    assert len(fingerprints) == 2
