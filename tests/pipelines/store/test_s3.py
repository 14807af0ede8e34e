"""The S3 backend on servers that lack parts of S3, with a private certificate, and among many other keys."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_servers import (
    Recorded,
    own_certificate,
    plain_client,
    s3_settings,
    serve_localbucket,
    serve_meagre_s3,
    serve_moto,
)

from pipelines.records.series import series_of_json
from pipelines.store.s3 import PROBE
from pipelines.store.storage import Store, open_store

pytestmark = [
    # moto and botocore leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def moto() -> Iterator[Recorded]:
    with serve_moto() as server:
        plain_client(server.endpoint).create_bucket(Bucket="bucket")
        yield server


def on(server: Recorded) -> Store:
    return open_store("s3://bucket/root", s3_settings(server.endpoint))


# --- conditional writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("refuses", "behaviour"), [((), "ignores the condition"), (("If-None-Match",), "answers")])
def test_a_server_without_conditional_writes_is_refused_before_the_first(
    refuses: tuple[str, ...], behaviour: str
) -> None:
    with serve_meagre_s3(*refuses) as (endpoint, server):
        store = open_store("s3://bucket/root", s3_settings(endpoint))
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"does not honour conditional writes.*{behaviour}"):
                store.create_bytes(store.uri("ledger/000001.json"), b"first")
        store.write_bytes(store.uri("plain"), b"x")
    assert set(server.objects) <= {f"/bucket/root/{PROBE}", "/bucket/root/plain"}


def test_a_server_that_refuses_the_condition_and_checksums_is_refused() -> None:
    with (
        serve_meagre_s3("x-amz-sdk-checksum-algorithm", "If-None-Match") as (endpoint, _),
        pytest.raises(ValueError, match="does not honour conditional writes"),
    ):
        open_store("s3://bucket/root", s3_settings(endpoint)).create_bytes("s3://bucket/root/1", b"x")


def test_conditions_are_tried_once_per_process_and_leave_one_object(moto: Recorded, tmp_path: Path) -> None:
    for name in "123":
        assert on(moto).create_bytes(f"s3://bucket/root/{name}", b"x")
    puts = [request.path for request in moto.requests if request.method == "PUT"]
    # The second put is refused: the server honours the condition.
    assert puts[1:] == [f"/bucket/root/{PROBE}"] * 2 + [f"/bucket/root/{name}" for name in "123"]


def test_series_on_another_server_lose_no_entry(tmp_path: Path) -> None:
    with serve_localbucket(tmp_path / "data") as endpoint:
        plain_client(endpoint).create_bucket(Bucket="bucket")

        def write(by: str) -> None:
            series = series_of_json(open_store("s3://bucket/root", s3_settings(endpoint)), "notes")
            for number in range(8):
                series.append(lambda _, last, number=number: {"by": by, "number": number})

        writers = [threading.Thread(target=write, args=(by,)) for by in ("a", "b", "c")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        entries = series_of_json(open_store("s3://bucket/root", s3_settings(endpoint)), "notes").entries()
    assert sorted((entry["by"], entry["number"]) for entry in entries) == [(by, n) for by in "abc" for n in range(8)]


# --- what else differs ----------------------------------------------------------------------------------------------


def test_a_server_that_refuses_checksums_gets_none_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with serve_meagre_s3("x-amz-sdk-checksum-algorithm") as (endpoint, server):
        store = open_store("s3://bucket/root", s3_settings(endpoint))
        with caplog.at_level(logging.WARNING):
            store.write_bytes(store.uri("1"), b"first")
            store.write_bytes(store.uri("2"), b"second")
        assert store.read_bytes(store.uri("1")) == b"first"
        assert len([record for record in caplog.records if "refuses checksums" in record.message]) == 1
        assert "x-amz-checksum-crc32" not in server.puts[-1]


def test_a_missing_bucket_is_named(moto: Recorded) -> None:
    store = open_store("s3://no-such-bucket", s3_settings(moto.endpoint))
    with pytest.raises(ValueError, match="bucket of s3://no-such-bucket/x does not exist"):
        store.write_bytes(store.uri("x"), b"1")


def test_a_server_that_is_down_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://bucket", s3_settings("http://127.0.0.1:9"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="s3://bucket/x cannot be reached"):
        store.exists(store.uri("x"))


def test_a_certificate_is_trusted_only_with_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, *server_files = own_certificate(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve_moto((server_files[0], server_files[1])) as server:
        plain_client(server.endpoint, ca=authority).create_bucket(Bucket="bucket")
        with pytest.raises(ValueError, match=r"is not trusted.*AWS_CA_BUNDLE"):
            on(server).write_bytes("s3://bucket/root/x", b"1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with serve_moto((server_files[0], server_files[1])) as server:
        plain_client(server.endpoint, ca=authority).create_bucket(Bucket="bucket")
        on(server).write_bytes("s3://bucket/root/x", b"1")
        assert on(server).read_bytes("s3://bucket/root/x") == b"1"


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_folder_is_published_and_fetched_without_a_listing(moto: Recorded, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for number in range(40):
        (out / f"{number:02d}").write_bytes(b"x")
    store = on(moto)
    store.create_bytes(store.uri("first"), b"")
    moto.requests.clear()
    store.publish_folder(out, store.uri("features/a"), {})
    store.fetch_folder(store.uri("features/a"), tmp_path / "in")
    assert moto.listings() == []
    assert sum(request.method == "PUT" for request in moto.requests) == 41
    assert moto.gets("/manifest.json") == 1
    assert sum(request.method == "GET" for request in moto.requests) == 41
    # Two for the manifest, before it is written and before it is read.
    assert sum(request.method == "HEAD" for request in moto.requests) == 2
    assert len(list((tmp_path / "in").iterdir())) == 41


def test_listing_a_folder_asks_for_its_keys_only(moto: Recorded) -> None:
    store = on(moto)
    for name in ("ledger/shapes/000001.json", "ledger/shapes2/000001.json", "ledger/a", "other/x"):
        store.write_bytes(store.uri(name), b"x")
    assert store.list_uris(store.uri("ledger/shapes")) == [store.uri("ledger/shapes/000001.json")]
    assert moto.listings() == ["root/ledger/shapes/"]
