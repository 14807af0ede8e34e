import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.store.folders import partial_path, resumable_path
from pipelines.store.storage import open_store


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the store should be")
    store = open_store(str(tmp_path / "taken"))
    for write in (store.write_bytes, store.create_bytes):
        with pytest.raises(ValueError, match=r"not writable at file://.*taken/raw/x.*PLUMBLINE_STORE_URI"):
            write(store.uri("raw/x"), b"1")


def test_a_crash_while_writing_leaves_the_old_object_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.write_bytes(store.uri("x"), b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_bytes(store.uri("x"), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_file_system_without_hard_links_still_creates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", no_links)
    store = open_store(str(tmp_path))
    assert store.create_bytes(store.uri("x"), b"1") is True
    assert store.create_bytes(store.uri("x"), b"2") is False
    assert store.read_bytes(store.uri("x")) == b"1"


@pytest.mark.parametrize("move", [True, False])
def test_a_file_is_copied_unless_it_may_be_moved(tmp_path: Path, *, move: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_bytes(b"1")
    inode = (tmp_path / "out/a").stat().st_ino
    store = open_store(str(tmp_path / "store"))

    store.publish_folder(tmp_path / "out", store.uri("raw/1"), {}, move=move)

    assert (tmp_path / "out/a").exists() is not move
    assert ((tmp_path / "store/raw/1/a").stat().st_ino == inode) is move


def test_a_file_with_other_access_is_copied(tmp_path: Path) -> None:
    """A file that is new in the store has the access that its folder gives it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_bytes(b"1")
    (tmp_path / "out/a").chmod(0o600)
    store = open_store(str(tmp_path / "store"))

    store.publish_folder(tmp_path / "out", store.uri("raw/1"), {}, move=True)

    (tmp_path / "store/new").touch()
    assert (tmp_path / "store/raw/1/a").stat().st_mode == (tmp_path / "store/new").stat().st_mode
    assert (tmp_path / "out/a").exists()


def test_a_file_is_copied_to_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def within_a_folder(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_bytes(b"1")
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr("os.replace", within_a_folder)

    store.publish_folder(tmp_path / "out", store.uri("raw/1"), {}, move=True)

    assert sorted(path.name for path in (tmp_path / "store/raw/1").iterdir()) == ["a", "manifest.json"]
    assert store.read_bytes(store.uri("raw/1/a")) == b"1"


LIMITED = """
import resource, sys
from pathlib import Path
from pipelines.store.folders import NoSpaceError
from pipelines.store.storage import open_store

store, local = open_store(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write = {
    "write": lambda: store.write_bytes(store.uri("x/y"), bytes(2000)),
    "create": lambda: store.create_bytes(store.uri("x/y"), bytes(2000)),
    "publish": lambda: store.publish_folder(local, store.uri("x"), {}),
}
try:
    write[sys.argv[3]]()
except NoSpaceError as error:
    print(error, end="")
"""


@pytest.mark.parametrize("how", ["write", "create", "publish"])
def test_a_write_without_space_is_named_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    store, local = tmp_path / "store", tmp_path / "local"
    local.mkdir()
    (local / "y").write_bytes(bytes(2000))
    command = [sys.executable, "-c", LIMITED, str(store), str(local), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{store}/x/y cannot be written: File too large. Free space there, or set PLUMBLINE_STORE_URI to a place with"
        " more space. Then run the same command again."
    )
    assert list((store / "x").iterdir()) == []


@pytest.mark.parametrize("wrong", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error")])
def test_an_object_that_is_created_without_hard_links_is_there_in_full_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: OSError
) -> None:
    synced: list[int] = []

    def fail(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:  # the first is that of the partial file
            raise wrong

    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("os.link", no_links)
    monkeypatch.setattr("os.fsync", fail)
    store = open_store(str(tmp_path))
    with pytest.raises(OSError, match=wrong.strerror):
        store.create_bytes(store.uri("x"), b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_large_file_is_identified_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.disk._HASHED_BYTES", 2)
    store = open_store(str(tmp_path))
    store.write_bytes(store.uri("x"), b"abc")
    facts = (tmp_path / "x").stat()
    assert store.stat(store.uri("x")) == (3, f"3-{facts.st_mtime_ns}")


def test_half_written_files_are_not_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write_bytes(store.uri("x"), b"1")
    (tmp_path / ".y.0123.partial").write_bytes(b"1")
    assert store.list_uris(store.root) == [store.uri("x")]


WRITING = """
import sys, time
from pipelines.store import disk
from pipelines.store.storage import open_store

def stop(path, data):
    path.write_bytes(data)
    print("writing", flush=True)
    time.sleep(600)

disk._write_synced = stop
store = open_store(sys.argv[1])
store.write_bytes(store.uri("deep/x"), b"half")
"""


def test_the_partial_file_of_a_killed_process_is_deleted_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert store.remove_abandoned() == 0
        [partial] = (tmp_path / "deep").iterdir()
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert partial.name.endswith(".partial")
    assert store.remove_abandoned() == 1
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_is_not_the_abandoned_file_of_this_host_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.write_bytes(store.uri("x"), b"1")
    resumable_path(tmp_path / "x", "s3://bucket/x").write_bytes(b"to continue")
    monkeypatch.setattr("pipelines.store.folders._host_mark", lambda: "0123abcd")
    other = partial_path(tmp_path / "x")
    monkeypatch.undo()
    earlier = tmp_path / f".x.{32 * 'f'}.partial"
    for path in (other, earlier):
        path.write_bytes(b"half")
    assert store.remove_abandoned() == 0
    yesterday = time.time() - 25 * 3600
    for path in (other, earlier, resumable_path(tmp_path / "x", "s3://bucket/x")):
        os.utime(path, (yesterday, yesterday))
    assert store.remove_abandoned() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["x", resumable_path(tmp_path / "x", "s3://bucket/x").name]
    )


def test_without_locks_objects_are_written_and_nothing_counts_as_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    store = open_store(str(tmp_path))
    store.write_bytes(store.uri("x"), b"1")
    partial_path(tmp_path / "x").write_bytes(b"half")
    assert store.remove_abandoned() == 0
    assert len(list(tmp_path.iterdir())) == 2
