"""The store on a disk and on a real S3 server (moto's)."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_servers import plain_client, s3_settings, serve_moto

from alignment.contracts.values import folder_digest
from pipelines.store.disk import named_uri
from pipelines.store.storage import Store, hash_folder, open_store, sha256_file

pytestmark = [
    # moto and botocore leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def moto_endpoint() -> Iterator[str]:
    with serve_moto() as server:
        yield server.endpoint


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same tests run on both kinds of store; on S3 in a bucket of the test."""
    if request.param == "disk":
        return open_store(str(tmp_path / "a store"))
    endpoint = request.getfixturevalue("moto_endpoint")
    bucket = f"b{abs(hash(request.node.name))}"
    plain_client(endpoint).create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/root", s3_settings(endpoint))


def folder(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


# --- both kinds of store --------------------------------------------------------------------------------------------


def test_objects_are_written_read_replaced_listed_and_deleted(store: Store) -> None:
    first, second = store.uri("raw", "b 1.json"), store.uri("raw/deep", "a.json")
    store.write_bytes(second, b"2")
    store.write_bytes(first, b"old")
    store.write_bytes(first, b"new")
    store.write_bytes(store.uri("raw2/x"), b"other folder")

    assert store.read_bytes(first) == b"new"
    assert store.list_uris(store.uri("raw")) == sorted([first, second])
    store.delete(first)
    store.delete(first)
    assert not store.exists(first)
    assert store.list_uris(store.uri("raw")) == [second]
    assert store.list_uris(store.uri("nothing")) == []


def test_listing_goes_past_the_first_page(store: Store, request: pytest.FixtureRequest) -> None:
    if store.root.startswith("file"):
        count = 20
    else:
        count = 1005
        bucket = store.root.removeprefix("s3://").partition("/")[0]
        client = plain_client(request.getfixturevalue("moto_endpoint"))
        for number in range(count - 20):
            client.put_object(Bucket=bucket, Key=f"root/many/{number:05d}", Body=b"")
    for number in range(count - 20, count):
        store.write_bytes(store.uri("many", f"{number:05d}"), b"")

    found = store.list_uris(store.uri("many"))
    assert [uri[-5:] for uri in found] == [f"{number:05d}" for number in range(count)]


def test_an_immutable_object_keeps_its_first_bytes(store: Store) -> None:
    uri = store.uri("ledger/1.json")
    assert store.create_bytes(uri, b"first") is True
    assert store.create_bytes(uri, b"second") is False
    assert store.read_bytes(uri) == b"first"


def test_only_one_of_many_writers_creates_an_object(store: Store) -> None:
    uri = store.uri("ledger/2.json")
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(store.create_bytes(uri, b"%d" % n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == [False] * 7 + [True]


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(ValueError, match=r"raw/none\.json does not exist"):
        store.read_bytes(store.uri("raw/none.json"))


def test_a_published_folder_is_fetched_unchanged(store: Store, tmp_path: Path) -> None:
    local = folder(tmp_path / "out", a=b"1", deep__b=b"22", log__x=b"noise")
    (local / "manifest.json").write_text("a stage's own leftovers do not count")
    uri = store.uri("features/abc")

    manifest = store.publish_folder(local, uri, {"rows": 3}, exclude=["log"])
    fetched = store.fetch_folder(uri, tmp_path / "in" / "abc")

    assert fetched == manifest
    assert manifest.value == {"rows": 3}
    assert manifest.files["deep/b"].num_bytes == 2
    assert (tmp_path / "in/abc/deep/b").read_bytes() == b"22"
    assert not (tmp_path / "in/abc/log").exists()
    assert hash_folder(tmp_path / "in/abc") == (manifest.content_digest, manifest.files)
    assert list((tmp_path / "in").iterdir()) == [tmp_path / "in/abc"]


def test_a_folder_that_may_be_moved_is_published_whole(store: Store, tmp_path: Path) -> None:
    local = folder(tmp_path / "out", a=b"1", deep__b=b"22")
    digest, files = hash_folder(local)

    manifest = store.publish_folder(local, store.uri("raw/1"), {}, hashed=files, move=True)

    store.fetch_folder(store.uri("raw/1"), tmp_path / "in")
    assert hash_folder(tmp_path / "in") == (digest, manifest.files)


def test_the_first_publication_of_a_folder_is_kept(store: Store, tmp_path: Path) -> None:
    uri = store.uri("raw/1")
    first = store.publish_folder(folder(tmp_path / "1", a=b"1"), uri, {"try": 1})
    assert store.publish_folder(folder(tmp_path / "2", a=b"2"), uri, {"try": 2}) == first
    assert store.read_bytes(f"{uri}/a") == b"1"


def test_a_folder_without_manifest_is_not_finished(store: Store, tmp_path: Path) -> None:
    store.write_bytes(store.uri("raw/2/a"), b"1")
    assert store.read_manifest(store.uri("raw/2")) is None
    with pytest.raises(ValueError, match="never finished"):
        store.fetch_folder(store.uri("raw/2"), tmp_path / "in")


def test_changed_bytes_are_refused_and_leave_nothing(store: Store, tmp_path: Path) -> None:
    uri = store.uri("raw/3")
    store.publish_folder(folder(tmp_path / "out", a=b"1", b=b"2"), uri, {})
    store.write_bytes(f"{uri}/b", b"3")
    with pytest.raises(ValueError, match="raw/3/b has sha256"):
        store.fetch_folder(uri, tmp_path / "in" / "x")
    assert list((tmp_path / "in").iterdir()) == []


def test_an_object_has_a_size_and_a_fingerprint_of_its_bytes(store: Store, tmp_path: Path) -> None:
    uri = store.uri("x")
    store.write_bytes(uri, b"abc")
    first = store.stat(uri)
    store.write_bytes(uri, b"abd")
    second = store.stat(uri)
    store.write_bytes(uri, b"abc")
    assert first[0] == second[0] == 3
    assert first != second
    assert store.stat(uri) == first
    assert store.local_path(uri, tmp_path / "scratch").read_bytes() == b"abc"
    for ask in (store.stat, lambda missing: store.local_path(missing, tmp_path)):
        with pytest.raises(ValueError, match="does not exist"):
            ask(store.uri("y"))


def test_ranges_are_of_one_version_of_an_object(store: Store) -> None:
    uri = store.uri("shard")
    store.write_bytes(uri, b"0123456789")
    data, version = store.read_range(uri, 2, 3)
    assert data == b"234"
    assert store.read_range(uri, 8, 100, version)[0] == b"89"
    assert store.hash_object(uri, version) == hashlib.sha256(b"0123456789").hexdigest()
    store.write_bytes(uri, b"9876543210")
    for read in (lambda: store.read_range(uri, 0, 1, version), lambda: store.hash_object(uri, version)):
        with pytest.raises(ValueError, match="was replaced while it was read"):
            read()
    with pytest.raises(ValueError, match="does not exist"):
        store.read_range(store.uri("none"), 0, 1)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", "./a", "a\\b"])
def test_a_manifest_cannot_reach_outside_its_folder(store: Store, tmp_path: Path, path: str) -> None:
    files = {path: {"sha256": "0" * 64, "num_bytes": 1}}
    manifest = {"content_digest": folder_digest({path: "0" * 64}), "files": files, "value": {}}
    store.write_bytes(store.uri("evil/manifest.json"), json.dumps(manifest).encode())
    with pytest.raises(ValueError, match="does not stay inside"):
        store.fetch_folder(store.uri("evil"), tmp_path / "in")


def test_an_inconsistent_manifest_is_refused(store: Store) -> None:
    files = {"a": {"sha256": "0" * 64, "num_bytes": 1}}
    manifest = {"content_digest": "1" * 64, "files": files, "value": {}}
    store.write_bytes(store.uri("odd/manifest.json"), json.dumps(manifest).encode())
    with pytest.raises(ValueError, match="is inconsistent"):
        store.read_manifest(store.uri("odd"))


def test_fetching_a_part_then_everything(store: Store, tmp_path: Path) -> None:
    uri, local = store.uri("raw/4"), tmp_path / "in"
    store.publish_folder(folder(tmp_path / "out", a=b"1", b__c=b"2", b__d=b"3"), uri, {})
    store.fetch_folder(uri, local, only=["b/c"])
    assert not (local / "a").exists()
    store.fetch_folder(uri, local, only=["a"])
    assert (local / "b/c").read_bytes() == b"2"
    store.fetch_folder(uri, local)
    assert (local / "b/d").read_bytes() == b"3"


def test_one_file_is_fetched_with_its_hash(store: Store, tmp_path: Path) -> None:
    store.write_bytes(store.uri("x"), b"abc")
    assert store.fetch_file(store.uri("x"), tmp_path / "d" / "x") == sha256_file(tmp_path / "d" / "x")
    with pytest.raises(ValueError, match="does not exist"):
        store.fetch_file(store.uri("y"), tmp_path / "d" / "y")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["x"]


# --- a disk ---------------------------------------------------------------------------------------------------------


def test_a_fetched_folder_is_reused_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    store, local = open_store(str(tmp_path / "store")), tmp_path / "in"
    uri = store.uri("raw/5")
    store.publish_folder(folder(tmp_path / "out", a=b"1", b=b"2"), uri, {})
    store.fetch_folder(uri, local)
    inode = (local / "a").stat().st_ino
    store.fetch_folder(uri, local)
    assert (local / "a").stat().st_ino == inode
    (local / "b").unlink()
    store.fetch_folder(uri, local)
    assert (local / "b").read_bytes() == b"2"


def test_fetching_does_not_overwrite_a_folder_with_other_files(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.publish_folder(folder(tmp_path / "out", a=b"1"), store.uri("raw/6"), {})
    mine = folder(tmp_path / "mine", thesis=b"years of work")
    with pytest.raises(ValueError, match="not a fetched folder"):
        store.fetch_folder(store.uri("raw/6"), mine)
    assert (mine / "thesis").read_bytes() == b"years of work"


# --- S3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../x", "a/../../x", "root/../other/x", ".."])
def test_an_s3_key_with_parent_parts_is_refused_by_every_call(moto_endpoint: str, tmp_path: Path, key: str) -> None:
    store = open_store("s3://bucket/root", s3_settings(moto_endpoint))
    calls: list[Callable[[str], object]] = [store.read_bytes, store.exists, store.stat, store.list_uris, store.delete]
    calls += [lambda uri: store.write_bytes(uri, b"x"), lambda uri: store.create_bytes(uri, b"x")]
    calls += [store.read_manifest, lambda uri: store.fetch_file(uri, tmp_path / "x")]
    calls += [lambda uri: store.local_path(uri, tmp_path), lambda uri: store.fetch_folder(uri, tmp_path / "in")]
    for call in calls:
        with pytest.raises(ValueError, match=r"has the part '\.\.'"):
            call(f"s3://bucket/{key}")


def test_a_uri_under_a_store_on_a_disk_does_not_leave_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store = open_store((tmp_path / "store").as_uri())
    for uri in (f"{store.root}/../secret", f"{store.root}/a/%2e%2e/%2e%2e/secret", f"{store.root}/..%2fsecret"):
        with pytest.raises(ValueError, match="does not stay inside"):
            store.read_bytes(uri)


def test_a_listing_with_a_parent_key_names_the_key(moto_endpoint: str) -> None:
    store = open_store("s3://bucket/root", s3_settings(moto_endpoint))
    client = plain_client(moto_endpoint)
    key = "root/climbing/a/../../../evil"
    client.create_bucket(Bucket="climbing")
    client.put_object(Bucket="climbing", Key=key, Body=b"x")
    with pytest.raises(ValueError, match=r"has the part '\.\.'") as caught:
        store.list_uris("s3://climbing/root/climbing")
    assert key in str(caught.value)


@pytest.mark.parametrize("target", ["a", "../secret", "../elsewhere"])
def test_a_folder_with_a_symbolic_link_is_not_published(store: Store, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    local = folder(tmp_path / "out", a=b"1")
    (local / "link").symlink_to(target)
    with pytest.raises(ValueError, match="is a symbolic link") as caught:
        store.publish_folder(local, store.uri("raw/links", target.strip("./")), {})
    assert str(local / "link") in str(caught.value)
    assert store.list_uris(store.uri("raw/links")) == []
    assert store.publish_folder(local, store.uri("raw/no_link"), {}, exclude=["link"]).files.keys() == {"a"}


def test_a_file_that_a_folder_names_is_read_from_that_folder_only(store: Store, tmp_path: Path) -> None:
    store.write_bytes(store.uri("named/a b.png"), b"image")
    assert store.read_bytes(named_uri(store.uri("named"), "a b.png", "index.jsonl")) == b"image"
    for name in ("../a", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ValueError, match="does not stay inside") as caught:
            named_uri(store.uri("named"), name, "index.jsonl")
        assert "index.jsonl" in str(caught.value)


def test_a_file_of_a_folder_on_a_disk_is_no_link_to_another_place(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store = open_store((tmp_path / "store").as_uri())
    store.write_bytes(store.uri("models/a"), b"a")
    (tmp_path / "store" / "models" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="a symbolic link leads to"):
        named_uri(store.uri("models"), "link", "index.jsonl")


def test_a_fetched_file_that_became_a_link_is_fetched_again(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.publish_folder(folder(tmp_path / "out", a=b"1"), store.uri("x"), {})
    store.fetch_folder(store.uri("x"), tmp_path / "in")
    (tmp_path / "in" / "a").unlink()
    (tmp_path / "other").write_bytes(b"2")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "other")
    store.fetch_folder(store.uri("x"), tmp_path / "in")
    assert (tmp_path / "in" / "a").read_bytes() == b"1"
