"""The contact sheet: position of every image, and the labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from alignment.contracts.jobs import SampleLine
from alignment.evaluation.contact_sheet import (
    MOST_STEPS,
    STRIP_SIDE,
    SheetRow,
    _cell_side,
    _fit,
    _wrap,
    contact_sheet,
    evenly_spaced,
    samples_sheet,
    samples_strip,
)

COLOURS = {("one", "base"): (255, 0, 0), ("one", "new"): (0, 255, 0), ("two", "base"): (0, 0, 255)}


def flat(caption: str, label: str) -> Image.Image:
    return Image.new("RGB", (64, 64), COLOURS.get((caption, label), (255, 0, 255)))


def test_every_image_is_in_its_row_and_column() -> None:
    labels = ["base", "new"]
    rows = [SheetRow(caption, {label: flat(caption, label) for label in labels}) for caption in ("one", "two")]
    pixels = np.asarray(contact_sheet(rows, labels)).astype(int)
    places = {}
    for name, colour in {**COLOURS, ("two", "new"): (255, 0, 255)}.items():
        y, x = np.nonzero((pixels == colour).all(axis=2))
        assert len(y) == 192 * 192, name
        places[name] = (y.mean(), x.mean())
    assert places["one", "base"][0] == places["one", "new"][0] < places["two", "base"][0]
    assert places["one", "base"][1] == places["two", "base"][1] < places["one", "new"][1]


def test_labels_and_captions_are_drawn() -> None:
    def ink(caption: str, label: str) -> int:
        sheet = contact_sheet([SheetRow(caption, {label: Image.new("RGB", (64, 64), "white")})], [label])
        return int((np.asarray(sheet.convert("L")) < 128).sum())

    assert ink("", "base") > 50
    assert ink("a long caption", "base") > ink("", "base") + 100


def test_small_images_are_enlarged_by_integer_factors_and_large_ones_shrink() -> None:
    assert _cell_side([Image.new("RGB", (64, 64))]) == 192
    assert _cell_side([Image.new("RGB", (1024, 768))]) == 320
    assert _fit(Image.new("RGB", (1024, 512)), 320).size == (320, 160)
    checker = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    assert set(np.unique(np.asarray(_fit(checker, 64)))) == {0, 255}


def test_samples_are_shown_by_step_with_the_first_and_last_always_there(tmp_path: Path) -> None:
    files = {}
    for step in range(0, 100, 10):
        path = tmp_path / f"{step}.png"
        Image.new("RGB", (8, 8), (step, step, step)).save(path)
        files[SampleLine(step=step, key="samples/00", path="x", prompt="a ring")] = path
    picture = samples_sheet(files)
    cell = _cell_side([Image.new("RGB", (8, 8))])
    shades = {picture.getpixel((x, picture.height - 20 - cell // 2)) for x in range(262, picture.width)}
    assert {(0, 0, 0), (90, 90, 90)} <= shades
    assert len([shade for shade in shades if shade[0] <= 90]) == MOST_STEPS
    files[SampleLine(step=0, key="samples/01", path="x", prompt="a dot")] = files[next(iter(files))]
    one_step = samples_sheet(files)
    assert one_step.width < picture.width, "the other steps have no image of the second prompt"
    del files[SampleLine(step=0, key="samples/01", path="x", prompt="a dot")]
    files[SampleLine(step=5, key="samples/01", path="x", prompt="a dot")] = files[next(iter(files))]
    with pytest.raises(ValueError, match="needs rows and columns"):
        samples_sheet(files)


def test_the_strip_has_the_images_of_the_last_step_only(tmp_path: Path) -> None:
    files = {}
    for step, key in ((0, 0), (0, 1), (7, 0), (7, 1), (7, 2)):
        path = tmp_path / f"{step}_{key}.png"
        Image.new("RGB", (8, 8), (step, key, 0)).save(path)
        files[SampleLine(step=step, key=f"samples/{key:02d}", path="x", prompt="a ring")] = path
    strip = samples_strip(files)
    assert strip.size == (3 * STRIP_SIDE + 2 * 12, STRIP_SIDE)
    assert [strip.getpixel((index * (STRIP_SIDE + 12) + 1, 1)) for index in range(3)] == [
        (7, 0, 0),
        (7, 1, 0),
        (7, 2, 0),
    ]
    with pytest.raises(ValueError, match="no sample image"):
        samples_strip({})


def test_spread_selects_evenly_and_always_the_same() -> None:
    assert evenly_spaced(range(200), 4) == [0, 50, 100, 150]
    assert evenly_spaced(range(3), 8) == [0, 1, 2]


def test_wrapped_lines_fit_the_width() -> None:
    font = ImageFont.load_default(16)
    lines = _wrap("a small red circle on a white background", font, 120)
    assert " ".join(lines) == "a small red circle on a white background"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 120 for line in lines)


def test_a_word_without_spaces_is_broken_inside() -> None:
    font = ImageFont.load_default(16)
    for text in ("x" * 80, "\u65e5" * 80):
        lines = _wrap(f"a {text} b", font, 120)
        assert "".join(lines).replace(" ", "") == f"a{text}b"
        assert all(font.getlength(line) <= 120 for line in lines)


def test_rows_are_numbered_for_scripts_without_glyphs() -> None:
    def caption(rows: list[str], index: int) -> bytes:
        sheet = contact_sheet([SheetRow(text, {"base": Image.new("RGB", (64, 64))}) for text in rows], ["base"])
        top = 64 + index * (192 + 12)
        return sheet.crop((20, top, 230, top + 192)).tobytes()

    two = ["\u65e5\u672c", "\ud55c\uad6d"]
    assert caption(two, 0) != caption(two, 1)


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 1"):
        contact_sheet([], ["base"])
