import threading
from pathlib import Path

import pytest

from alignment.contracts.values import folder_digest
from pipelines.store.folders import (
    hash_folder,
    join_uri,
    locked,
    matches,
    partial_path,
    parts_path,
    resumable_path,
)
from pipelines.store.storage import open_store


def folder(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def test_the_hash_of_a_folder_needs_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no files"):
        hash_folder(tmp_path / "none")
    digest, files = hash_folder(folder(tmp_path / "f", a=b"1"))
    assert digest == folder_digest({"a": files["a"].sha256})


def test_uris_stay_inside_the_store_and_name_a_known_scheme(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    assert store.uri("raw", "x") == (tmp_path / "raw" / "x").as_uri()
    for bad in ("../x", "/x", "s3://other/x"):
        with pytest.raises(ValueError, match="does not stay inside"):
            store.uri(bad)
    with pytest.raises(ValueError, match="gs://bucket"):
        open_store("gs://bucket")


def test_the_hash_depends_on_names_and_bytes_and_not_on_leftovers(tmp_path: Path) -> None:
    digests = {
        hash_folder(folder(tmp_path / "1", a=b"1", b=b"2"))[0],
        hash_folder(folder(tmp_path / "2", a=b"2", b=b"1"))[0],
        hash_folder(folder(tmp_path / "3", a=b"1", c=b"2"))[0],
    }
    assert len(digests) == 3
    (tmp_path / "1" / "manifest.json").write_text("{}")
    partial_path(tmp_path / "1" / "c").write_bytes(b"half")
    assert hash_folder(tmp_path / "1")[0] in digests
    assert hash_folder(tmp_path / "1", exclude=["b"])[1].keys() == {"a"}


def test_patterns_are_paths_folders_and_globs() -> None:
    assert matches("a/b.txt", ["a"])
    assert matches("a/b.txt", ["a/"])
    assert matches("a/b.txt", ["*.txt"])
    assert matches("a/b.txt", ["a/b.txt"])
    assert not matches("ab/c", ["a"])
    assert not matches("a/b", [])


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_lock_is_held_by_one_at_a_time_also_when_its_path_is_renamed(tmp_path: Path, as_folder: bool) -> None:
    path, order = tmp_path / ".x.partial", list[str]()

    def other() -> None:
        with locked(path, folder=as_folder):
            order.append("second")

    with locked(path, folder=as_folder):
        waiting = threading.Thread(target=other)
        waiting.start()
        waiting.join(0.2)
        path.rename(tmp_path / "x")
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert path.exists()


def test_a_fetch_has_one_partial_name_per_object_which_no_hash_counts(tmp_path: Path) -> None:
    path = folder(tmp_path, a=b"1") / "weights"
    first = resumable_path(path, "s3://bucket/a/weights")
    assert first == resumable_path(path, "s3://bucket/a/weights") != resumable_path(path, "s3://bucket/b/weights")
    for partial in (first, parts_path(first)):
        partial.write_bytes(b"half")
    assert hash_folder(tmp_path)[1].keys() == {"a"}


def test_a_produced_folder_has_no_links_and_a_model_folder_may_link_to_its_own_files(tmp_path: Path) -> None:
    made = folder(tmp_path / "f", a=b"1")
    (made / "link").symlink_to("a")
    with pytest.raises(ValueError, match="is a symbolic link"):
        hash_folder(made)
    assert hash_folder(made, hub_links=True)[1].keys() == {"a", "link"}
    (made / "link").unlink()
    (made / "link").symlink_to(folder(tmp_path / "elsewhere", a=b"2"))
    with pytest.raises(ValueError, match="is a symbolic link"):
        hash_folder(made, hub_links=True)


def test_the_uri_of_a_file_stays_in_its_folder(tmp_path: Path) -> None:
    for uri in (tmp_path.as_uri(), "s3://bucket/folder"):
        assert join_uri(uri, "a/b") == f"{uri}/a/b"
        for name in ("../x", "/x", "", "a\\b", "a/../../x"):
            with pytest.raises(ValueError, match="does not stay inside"):
                join_uri(uri, name)
