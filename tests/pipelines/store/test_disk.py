from pathlib import Path

import pytest

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
