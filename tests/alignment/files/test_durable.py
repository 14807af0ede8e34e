"""Atomic writes, and digests of the contents."""

import errno
import hashlib
import os
import resource
from pathlib import Path

import pytest

from alignment.contracts.values import folder_digest
from alignment.files.durable import (
    content_digest,
    file_sha256,
    files_below,
    named_errors,
    publish_folder,
    write_bytes,
    write_json,
)


def test_write_replaces_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    write_bytes(tmp_path / "a", b"new")
    write_json(tmp_path / "b.json", {"z": 1, "a": "ü"})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == '{\n "a": "ü",\n "z": 1\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.json"]


def test_a_write_that_fails_keeps_the_old_bytes_and_names_the_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            write_bytes(tmp_path / "a", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_named_errors_keep_an_existing_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="x") as failed, named_errors(tmp_path):
        raise OSError(errno.ENOSPC, "x", "known")
    assert failed.value.filename == "known"


def test_publishing_replaces_an_existing_folder(tmp_path: Path) -> None:
    for name in ("draft", "final"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / name).write_text(name)
    publish_folder(tmp_path / "draft", tmp_path / "final")
    assert [path.name for path in files_below(tmp_path)] == ["draft"]
    assert (tmp_path / "final" / "sub" / "draft").read_text() == "draft"


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"x" * 3_000_000)
    (tmp_path / "y").write_bytes(b"")
    digests = {"sub/x": hashlib.sha256(b"x" * 3_000_000).hexdigest(), "y": hashlib.sha256(b"").hexdigest()}
    assert file_sha256(tmp_path / "sub" / "x") == digests["sub/x"]
    assert content_digest(tmp_path) == folder_digest(digests)
    assert content_digest(tmp_path, [tmp_path / "y"]) == folder_digest({"y": digests["y"]})


@pytest.mark.parametrize("target", ["a", "../secret", "../elsewhere", "nothing"])
def test_a_folder_with_a_symbolic_link_is_neither_published_nor_hashed(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "a").write_text("a")
    (tmp_path / "draft" / "link").symlink_to(target)
    for call in (files_below, content_digest, lambda draft: publish_folder(draft, tmp_path / "final")):
        with pytest.raises(ValueError, match="is a symbolic link") as caught:
            call(tmp_path / "draft")
        assert str(tmp_path / "draft" / "link") in str(caught.value)
    assert not (tmp_path / "final").exists()
