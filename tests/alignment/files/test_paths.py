"""Names read from files, good and bad, and the symbolic links that are allowed."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from alignment.contracts.names import RelativeName, check_name
from alignment.files.paths import check_link, resolve_below

GOOD = ["a", "a/b.png", "extremes/00001_champion.png", "a b/ü.txt", "...", "..a/b", "a..b", ".hidden", "a/b:c"]
BAD = [
    *("", ".", "..", "../a", "a/../b", "a/..", "a/../../b", "./a", "a/./b", "a//b", "a/", "/", "//a", "/etc/passwd"),
    *("a\\b", "..\\a", "\\\\host\\a", "C:", "C:/a", "c:a", "file:///a", "s3://b/a", "a\0b", "\0"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_relative_name_is_joined_to_the_root(tmp_path: Path, name: str) -> None:
    assert check_name(name, tmp_path) == name
    assert resolve_below(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", BAD)
def test_any_other_name_is_refused_and_the_error_names_root_and_source(tmp_path: Path, name: str) -> None:
    for check in (check_name, lambda n, root, source: resolve_below(root, n, source)):
        with pytest.raises(ValueError, match="does not stay inside") as caught:
            check(name, tmp_path, "index.json")
        assert str(caught.value).startswith("index.json: ")
        assert repr(name) in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "Allowed: " in str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_a_field_of_a_value_object_refuses_the_same_names(name: str) -> None:
    class Line(BaseModel):
        path: RelativeName

    with pytest.raises(ValidationError, match="does not stay inside"):
        Line(path=name)
    assert Line(path="a/b").path == "a/b"


@pytest.mark.parametrize("target", ["../outside.txt", "../outside", "../nothing", "/etc/hostname"])
def test_a_link_out_of_the_root_is_refused(tmp_path: Path, target: str) -> None:
    root = make_root(tmp_path)
    (root / "link").symlink_to(target)
    for name in ("link", "link/below.txt"):
        with pytest.raises(ValueError, match="a symbolic link leads to") as caught:
            resolve_below(root, name)
        assert repr(name) in str(caught.value)


def test_a_link_within_the_root_and_a_root_that_is_a_link_are_followed(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "link").symlink_to("inside.txt")
    (tmp_path / "alias").symlink_to(root)
    assert resolve_below(tmp_path / "alias", "link").read_text() == "inside"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert resolve_below(tmp_path, "loop") == tmp_path / "loop"
    with pytest.raises(ValueError, match="is a symbolic link"):
        check_link(tmp_path / "loop", tmp_path, hub_links=True)


@pytest.mark.parametrize("target", ["inside.txt", "../outside.txt", "../outside", "nothing"])
def test_every_link_in_a_produced_folder_is_refused(tmp_path: Path, target: str) -> None:
    root = make_root(tmp_path)
    (root / "link").symlink_to(target)
    check_link(root / "inside.txt", root)
    with pytest.raises(ValueError, match="no symbolic links") as caught:
        check_link(root / "link", root)
    assert str(caught.value).startswith(f"{root / 'link'} is a symbolic link to ")


def test_a_cached_snapshot_may_link_to_its_own_blobs(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path)
    file = snapshot / "unet" / "config.json"
    file.symlink_to("../../../blobs/abc")
    check_link(file, snapshot, hub_links=True)
    assert resolve_below(snapshot, "unet/config.json", hub_links=True).read_text() == "blob"
    assert resolve_below(snapshot / "unet", "config.json", hub_links=True).read_text() == "blob"
    with pytest.raises(ValueError, match="a symbolic link leads to"):
        resolve_below(snapshot, "unet/config.json")


@pytest.mark.parametrize("target", ["../../../../models--x--other/blobs/abc", "../../../refs/main", "../../../blobs"])
def test_a_cached_snapshot_may_not_link_elsewhere(tmp_path: Path, target: str) -> None:
    make_snapshot(tmp_path, "models--x--other")
    snapshot = make_snapshot(tmp_path)
    link = snapshot / "unet" / "config.json"
    link.symlink_to(target)
    with pytest.raises(ValueError, match="in its Hugging Face cache"):
        check_link(link, snapshot, hub_links=True)


def test_a_folder_outside_a_cache_may_link_to_its_own_files_only(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "same").symlink_to("inside.txt")
    check_link(root / "same", root, hub_links=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_text("blob")
    (root / "other").symlink_to("../blobs/abc")
    with pytest.raises(ValueError, match="is a symbolic link to"):
        check_link(root / "other", root, hub_links=True)


def test_a_link_to_a_folder_is_refused_even_within_the_root(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "unet").mkdir()
    (root / "unet_2").symlink_to("unet")
    with pytest.raises(ValueError, match="is a symbolic link to"):
        check_link(root / "unet_2", root, hub_links=True)


def make_root(tmp_path: Path) -> Path:
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "inside.txt").write_text("inside")
    return tmp_path / "root"


def make_snapshot(tmp_path: Path, repository: str = "models--x--tiny") -> Path:
    folder = tmp_path / repository
    for name in ("blobs", "refs", "snapshots/0123/unet"):
        (folder / name).mkdir(parents=True)
    (folder / "blobs" / "abc").write_text("blob")
    (folder / "refs" / "main").write_text("0123")
    return folder / "snapshots" / "0123"
