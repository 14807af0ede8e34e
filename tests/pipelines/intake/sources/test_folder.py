"""Image files in w/ and l/, and rankings of the images of a prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.intake.sources.folder import FolderSource
from pipelines.project.sections import SourceSection
from pipelines.settings import Settings
from pipelines.store.storage import open_store

Read = Callable[..., list[dict[str, Any]]]
Picture = Callable[..., bytes]


def test_the_image_in_w_is_preferred_and_no_image_is_lost(read: Read, picture: Picture, tmp_path: Path) -> None:
    better, worse = picture("f/w/a b.png", 0), picture("f/l/a b.jpg", 1)
    alone = picture("f/w/c.png", 2)
    (tmp_path / "f/a b.txt").write_text(" a red fox \n", encoding="utf-8")
    (tmp_path / "f/c.txt").write_bytes(b"\xff\xfe bad")
    first, second = read("folder", tmp_path / "f")
    assert (first["image_0"], first["image_1"], first["preference"]) == (better, worse, 1.0)
    assert (first["prompt"], first["num_votes"], first["has_label"]) == ("a red fox", 1, True)
    assert (second["image_0"], second["image_1"], second["prompt"]) == (alone, None, None)


def test_a_ranking_is_a_folder_of_images_by_rank(read: Read, picture: Picture, tmp_path: Path) -> None:
    images = [picture(f"f/fox/{name}.png", n) for n, name in enumerate(("1", "2a", "2b"))]
    (tmp_path / "f/fox/prompt.txt").write_text("a fox")
    picture("f/owl/best.png", 8)
    picture("f/owl/2.png", 9)
    (tmp_path / "f/owl/prompt.txt").write_text("an owl")
    found = read("folder", tmp_path / "f")
    assert [(one["image_0"], one["image_1"], one["label_0"]) for one in found[:3]] == [
        (images[0], images[1], 1.0),
        (images[0], images[2], 1.0),
        (images[1], images[2], 0.5),
    ]
    assert [one["weight"] for one in found[:3]] == [pytest.approx(2 / 3)] * 3
    assert (found[3]["prompt"], found[3]["label_0"]) == ("an owl", None), "an image without a rank"


def test_each_folder_is_a_shard_that_changes_with_its_files(
    read: Read, picture: Picture, settings: Settings, tmp_path: Path
) -> None:
    for name in ("x", "y/z"):
        picture(f"f/{name}/w/1.png", 0)
        picture(f"f/{name}/l/1.png", 1)
        (tmp_path / f"f/{name}/1.txt").write_text("a fox")
    source = SourceSection(name="s", kind="folder", uri=str(tmp_path / "f"), licence="x")
    store = open_store(settings.store_uri)
    before = FolderSource().list_shards(source, store)
    assert [shard.uri.rpartition("/f/")[2] for shard in before] == ["x", "y/z"]
    picture("f/x/l/1.png", 3)
    after = FolderSource().list_shards(source, store)
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [False, True]
    assert len(read("folder", tmp_path / "f")) == 2


def test_a_link_that_leaves_the_folder_is_not_read(read: Read, picture: Picture, tmp_path: Path) -> None:
    picture("secret.png", 0)
    picture("f/l/a.png", 1)
    (tmp_path / "f/w").mkdir()
    (tmp_path / "f/w/a.png").symlink_to(tmp_path / "secret.png")
    (found,) = read("folder", tmp_path / "f")
    assert found["image_0"] is None


def test_a_folder_of_something_else_is_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/votes.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"has neither folders `w` and `l` .* It holds files ending in csv\."):
        read("folder", tmp_path / "f")
