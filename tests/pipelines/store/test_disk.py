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
