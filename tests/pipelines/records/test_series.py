"""Numbered entries on a disk and on a real S3 server (moto's): concurrent writers lose no entry and share no number."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipelines.records.series import Series, series_of_json, series_of_models
from pipelines.settings import Settings
from pipelines.store.s3_client import s3_client
from pipelines.store.storage import Store, open_store

pytestmark = [
    # moto and botocore leave open sockets for the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Note(BaseModel):
    number: int
    by: str


@pytest.fixture(scope="module")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path / "a store"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    endpoint: str = request.getfixturevalue("moto_endpoint")
    bucket = f"b{abs(hash(request.node.name))}"
    s3_client(endpoint, checksums=True).create_bucket(Bucket=bucket)
    root = f"s3://{bucket}/root"
    settings = Settings(
        store_uri=root, tracking_uri="", state_dir=tmp_path, projects_dir=tmp_path, s3_endpoint_url=endpoint
    )
    return open_store(root, settings)


def notes(store: Store) -> Series[Note]:
    return series_of_models(store, "notes", "tiny", model=Note)


def add(series: Series[Note], by: str) -> Note:
    return series.append(lambda number, last: Note(number=number, by=by))


def test_entries_are_numbered_files_in_the_order_of_writing(store: Store) -> None:
    series = notes(store)
    assert (series.numbers(), series.last(), series.entries()) == ([], (0, None), [])
    add(series, "a")
    add(series, "b")
    uris = [store.uri("notes", "tiny", name) for name in ("000001.json", "000002.json")]
    assert store.list_uris(series.folder_uri) == uris
    assert store.read_bytes(uris[1]) == b'{\n "number": 2,\n "by": "b"\n}'
    assert series.numbers() == [1, 2]
    assert series.last() == (2, Note(number=2, by="b"))
    assert [note.by for note in series.entries()] == ["a", "b"]


def test_an_entry_that_another_writer_put_first_is_seen_and_followed(store: Store) -> None:
    series, seen = notes(store), []

    def propose(number: int, last: Note | None) -> Note:
        seen.append((number, last and last.by))
        if number < 3:
            add(notes(store), f"other {number}")
        return Note(number=number, by="mine")

    assert series.append(propose) == Note(number=3, by="mine")
    assert seen == [(1, None), (2, "other 1"), (3, "other 2")]
    assert [note.by for note in series.entries()] == ["other 1", "other 2", "mine"]


def test_two_writers_at_once_lose_nothing(store: Store) -> None:
    start, failures = threading.Barrier(2), []

    def write(by: str) -> None:
        series = notes(store)
        start.wait(10)
        try:
            for _ in range(8):
                add(series, by)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(by,)) for by in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert failures == []
    found = notes(store).entries()
    assert [note.number for note in found] == list(range(1, 17))
    assert sorted(note.by for note in found) == ["a"] * 8 + ["b"] * 8


def test_nothing_is_written_when_nothing_is_proposed(store: Store) -> None:
    series = notes(store)
    first = add(series, "a")
    assert series.append(lambda number, last: None) == first
    assert series.numbers() == [1]


def test_an_entry_is_created_once_and_the_same_bytes_count_as_created(store: Store) -> None:
    """An S3 client repeats a put whose response was lost; the object that exists is then from the first try."""
    series = notes(store)
    assert series.create(1, Note(number=1, by="a"))
    assert series.create(1, Note(number=1, by="a"))
    assert not series.create(1, Note(number=1, by="b"))
    assert series.read(1) == Note(number=1, by="a")


def test_objects_without_a_number_are_not_entries(store: Store) -> None:
    series = notes(store)
    for name in ("note.json", "000001.json.bak", "1.json", "more/000009.json"):
        store.write_bytes(store.uri("notes", "tiny", name), b"{}")
    assert series.numbers() == []
    assert add(series, "a").number == 1


def test_a_number_goes_past_six_digits_and_past_a_gap(store: Store) -> None:
    series = notes(store)
    assert series.create(999_999, Note(number=999_999, by="a"))
    assert add(series, "b").number == 1_000_000
    assert [note.by for note in series.entries()] == ["a", "b"]
    assert add(series, "c").number == 1_000_001


def test_plain_json_is_kept_as_python_writes_it(store: Store) -> None:
    series = series_of_json(store, "order")
    series.append(lambda number, last: {"by": "ä", "at": 1})
    assert store.read_bytes(store.uri("order", "000001.json")) == b'{"by": "\\u00e4", "at": 1}'
    assert series.read(1) == {"by": "ä", "at": 1}
