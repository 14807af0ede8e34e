"""Large files in parts: a transfer killed with -9 continues, which the requests at the server show."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_servers import Recorded, Request, plain_client, s3_settings, serve_localbucket, serve_moto

from pipelines.store import s3_parts
from pipelines.store.folders import sha256_file
from pipelines.store.storage import Store, open_store

MIB = 1024 * 1024
SIZE = 45 * MIB + 1
NUM_PARTS = 10
URI = "s3://bucket/root/models/1"
pytestmark = [
    # moto and botocore leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CODE = """
import sys
from pathlib import Path
from pipelines.settings import load_settings
from pipelines.store import s3_parts
from pipelines.store.storage import open_store
s3_parts.MULTIPART_BYTES = s3_parts.PART_BYTES = 5 * 1024 * 1024
store = open_store("s3://bucket/root", load_settings())
if sys.argv[1] == "publish":
    store.publish_folder(Path(sys.argv[2]), sys.argv[3], {})
else:
    store.fetch_folder(sys.argv[3], Path(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_parts, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3_parts, "PART_BYTES", 5 * MIB)


@pytest.fixture
def moto() -> Iterator[Recorded]:
    with serve_moto() as server:
        plain_client(server.endpoint).create_bucket(Bucket="bucket")
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with one large file, no two parts of which are the same, and a small one."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "big").write_bytes(b"".join(bytes([number]) * (5 * MIB) for number in range(9)) + b"!")
    (folder / "small").write_bytes(b"small")
    return folder


def on(endpoint: str) -> Store:
    return open_store("s3://bucket/root", s3_settings(endpoint))


def killed_at(server: Recorded, is_last: Callable[[Request], bool], *argv: str) -> None:
    """Run a transfer in another process and kill it with -9 when the server receives the `is_last` request."""
    reached = threading.Event()

    def before(request: Request) -> None:
        if is_last(request):
            reached.set()
            threading.Event().wait(1)  # unanswered when the process dies

    server.before = before
    env = os.environ | {"AWS_ENDPOINT_URL": server.endpoint, "PLUMBLINE_STORE_URI": "s3://bucket/root"}
    with subprocess.Popen([sys.executable, "-c", CODE, *argv], env=env, cwd=Path(__file__).parents[3]) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    server.before = lambda request: None
    deadline = time.monotonic() + 30
    while server.active and time.monotonic() < deadline:
        time.sleep(0.05)  # what the process had sent is still answered


@pytest.mark.timeout(180)
def test_an_upload_killed_in_the_middle_sends_only_the_missing_parts(moto: Recorded, out: Path, tmp_path: Path) -> None:
    stored = plain_client(moto.endpoint)

    def is_last(request: Request) -> bool:
        return request.query.get("partNumber") == ["9"]

    killed_at(moto, is_last, "publish", str(out), URI)
    (upload,) = stored.list_multipart_uploads(Bucket="bucket")["Uploads"]
    there = stored.list_parts(Bucket="bucket", Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
    assert 0 < len(there) < NUM_PARTS
    moto.requests.clear()

    manifest = on(moto.endpoint).publish_folder(out, URI, {})

    sent = moto.parts()
    assert sorted(sent) == sorted(set(range(1, NUM_PARTS + 1)) - {part["PartNumber"] for part in there})
    assert stored.head_object(Bucket="bucket", Key="root/models/1/big")["ContentLength"] == SIZE
    on(moto.endpoint).fetch_folder(URI, tmp_path / "in")
    assert sha256_file(tmp_path / "in" / "big") == manifest.files["big"].sha256


def test_parts_of_an_earlier_version_of_the_file_are_sent_again(moto: Recorded, out: Path, tmp_path: Path) -> None:
    client = plain_client(moto.endpoint)
    upload = client.create_multipart_upload(Bucket="bucket", Key="root/models/1/big")["UploadId"]
    for number, data in ((1, bytes([0]) * (5 * MIB)), (2, b"other" * MIB), (3, b"short")):
        client.upload_part(Bucket="bucket", Key="root/models/1/big", UploadId=upload, PartNumber=number, Body=data)
    moto.requests.clear()
    on(moto.endpoint).publish_folder(out, URI, {})
    assert 1 not in moto.parts()
    assert {2, 3} <= set(moto.parts())
    on(moto.endpoint).fetch_folder(URI, tmp_path / "in")


def test_a_file_that_was_uploaded_completely_is_not_sent_again(moto: Recorded, out: Path) -> None:
    on(moto.endpoint).publish_folder(out, URI, {})
    plain_client(moto.endpoint).delete_object(Bucket="bucket", Key="root/models/1/manifest.json")
    moto.requests.clear()
    on(moto.endpoint).publish_folder(out, URI, {})
    assert moto.parts() == []


def test_a_server_that_cannot_list_parts_gets_them_all(out: Path, tmp_path: Path) -> None:
    with serve_localbucket(tmp_path / "data") as endpoint:
        plain_client(endpoint).create_bucket(Bucket="bucket")
        manifest = on(endpoint).publish_folder(out, URI, {})
        on(endpoint).fetch_folder(URI, tmp_path / "in")
    assert sha256_file(tmp_path / "in" / "big") == manifest.files["big"].sha256


@pytest.mark.timeout(180)
def test_a_download_killed_in_the_middle_asks_only_for_the_missing_ranges(
    moto: Recorded, out: Path, tmp_path: Path
) -> None:
    manifest = on(moto.endpoint).publish_folder(out, URI, {})
    asked = 0

    def is_last(request: Request) -> bool:
        nonlocal asked
        asked += request.method == "GET" and request.path.endswith("/big")
        return asked == NUM_PARTS - 1

    local = tmp_path / "in"
    killed_at(moto, is_last, "fetch", str(local), URI)
    assert not (local / "big").exists()
    (notes,) = local.glob(".big.*.parts.partial")
    done = len(notes.read_text().splitlines()) - 1
    assert 0 < done < NUM_PARTS
    moto.requests.clear()

    on(moto.endpoint).fetch_folder(URI, local)

    assert moto.gets("/big") == NUM_PARTS - done
    assert moto.gets("/small") == 0
    assert sha256_file(local / "big") == manifest.files["big"].sha256
    assert {path.name for path in local.iterdir()} == {"big", "small", "manifest.json"}


def test_a_partial_download_of_another_version_is_not_continued(moto: Recorded, out: Path, tmp_path: Path) -> None:
    store, path = on(moto.endpoint), tmp_path / "big"
    store.publish_folder(out, URI, {})

    def break_off(request: Request) -> None:
        if request.method == "GET" and request.path.endswith("/big") and moto.gets("/big") == 4:
            plain_client(moto.endpoint).put_object(Bucket="bucket", Key="root/models/1/big", Body=bytes(SIZE))

    moto.before = break_off
    with pytest.raises(ConnectionError, match="models/1/big"):
        store.fetch_file(f"{URI}/big", path)
    moto.before = lambda request: None
    store.fetch_file(f"{URI}/big", path)
    assert path.read_bytes() == bytes(SIZE)


def test_parts_that_the_host_lost_are_fetched_again(moto: Recorded, out: Path, tmp_path: Path) -> None:
    manifest, local = on(moto.endpoint).publish_folder(out, URI, {}), tmp_path / "in"
    asked = 0

    def is_last(request: Request) -> bool:
        nonlocal asked
        asked += request.method == "GET" and request.path.endswith("/big")
        return asked == NUM_PARTS - 1

    killed_at(moto, is_last, "fetch", str(local), URI)
    (partial,) = (path for path in local.glob(".big.*.partial") if ".parts." not in path.name)
    with partial.open("r+b") as stream:
        stream.truncate(0)
        stream.truncate(SIZE)
    on(moto.endpoint).fetch_folder(URI, local)
    assert sha256_file(local / "big") == manifest.files["big"].sha256
