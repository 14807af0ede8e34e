"""Bytes of an image that a table holds or names."""

import base64
from pathlib import Path
from typing import Any

import pytest

from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.settings import Settings
from pipelines.store.storage import open_store


@pytest.fixture
def images(tmp_path: Path, settings: Settings) -> ImageFiles:
    (tmp_path / "t/train").mkdir(parents=True)
    (tmp_path / "t/a%20b.png").write_bytes(b"a")
    (tmp_path / "t/train/c.png").write_bytes(b"c")
    (tmp_path / "secret").write_bytes(b"s")
    return ImageFiles(open_store(settings.store_uri), str(tmp_path / "t"), subfolders=("train",))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (b"x", b"x"),
        (memoryview(b"x"), b"x"),
        ({"bytes": b"x", "path": "c.png"}, b"x"),
        ({"bytes": None, "path": "c.png"}, b"c"),
        ("c.png", b"c"),
        ("a%20b.png", b"a"),
        ("./train/c.png", b"c"),
        ("data:image/png;base64," + base64.b64encode(b"x").decode(), b"x"),
    ],
)
def test_values_that_are_or_name_an_image(images: ImageFiles, value: Any, data: bytes) -> None:
    assert images.read(value) == data


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", b"", 7, {}, {"bytes": None}, "none.png", "../secret", "train/../../secret", "/etc/passwd"),
        *("train", ".", "data:image/png,x", "https://a.org/x.png", "hub://a/b", "x\x00y", "c.png/", "a" * 5000),
    ],
)
def test_everything_else_is_no_image(images: ImageFiles, value: Any) -> None:
    assert images.read(value) is None


def test_addresses_are_fetched_only_where_a_fetcher_is_given(settings: Settings, tmp_path: Path) -> None:
    asked = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        if "bad" in url:
            raise ValueError("refused")
        return b"x"

    images = ImageFiles(open_store(settings.store_uri), str(tmp_path), fetch=fetch)
    assert images.read("https://a.org/x.png") == b"x"
    assert images.read("https://a.org/bad.png") is None
    assert images.read("ftp://a.org/x.png") is None
    assert len(asked) == 2
