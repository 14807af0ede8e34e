"""Draw a contact sheet: one row per prompt, one column per model, with readable labels.

The font is Pillow's built-in one, so every host draws the same sheet. It covers Latin letters only and draws other
scripts as boxes. Rows are therefore numbered, and every page that shows a sheet lists its prompts as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

from alignment.contracts.jobs import SampleLine

PAPER, INK, FAINT, RULE = (255, 255, 255), (28, 32, 38), (96, 104, 114), (222, 226, 231)
SMALLEST_CELL, LARGEST_CELL = 160, 320
STRIP_SIDE = 72
CAPTION_WIDTH, MARGIN, GAP, HEADER = 230, 20, 12, 44
LABEL_SIZE, CAPTION_SIZE, LINE_HEIGHT = 18, 16, 22

MOST_STEPS, MOST_PROMPTS = 6, 8
"""Largest numbers of columns and rows of a sheet of a run's samples."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class SheetRow:
    """A prompt and its image under each label."""

    caption: str
    images: Mapping[str, Image.Image]


def contact_sheet(rows: Sequence[SheetRow], labels: Sequence[str]) -> Image.Image:
    """Draw numbered captions on the left and one column per label; small images are enlarged without blurring.

    Raises ValueError when there are no rows or no labels.
    """
    if not rows or not labels:
        raise ValueError(f"A contact sheet needs rows and columns, got {len(rows)} x {len(labels)}.")
    cell = _cell_side([row.images[label] for row in rows for label in labels])
    width = 2 * MARGIN + CAPTION_WIDTH + len(labels) * (cell + GAP)
    sheet = Image.new("RGB", (width, MARGIN + HEADER + len(rows) * (cell + GAP) + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    columns = [MARGIN + CAPTION_WIDTH + GAP + index * (cell + GAP) for index in range(len(labels))]
    for x, label in zip(columns, labels, strict=True):
        _centred(draw, label, x + cell // 2, MARGIN + HEADER // 2 - 4)
    for index, row in enumerate(rows):
        top = MARGIN + HEADER + index * (cell + GAP)
        draw.line([(MARGIN, top - GAP // 2), (width - MARGIN, top - GAP // 2)], fill=RULE)
        _caption(draw, f"{index + 1}. {row.caption}", top, cell)
        for x, label in zip(columns, labels, strict=True):
            image = _fit(row.images[label], cell)
            sheet.paste(image, (x + (cell - image.width) // 2, top + (cell - image.height) // 2))
    return sheet


def samples_sheet(files: Mapping[SampleLine, Path]) -> Image.Image:
    """Draw a run's sample images: one row per prompt and one column per step, the first and last among them.

    `files` maps each sample to its image. Steps without an image of every prompt are left out; ValueError when no step
    has one of each.
    """
    found = {(sample.key, sample.step): path for sample, path in files.items()}
    prompts = {sample.key: sample.prompt for sample in files}
    keys = evenly_spaced(sorted(prompts), MOST_PROMPTS)
    steps = sorted(step for step in {step for _, step in found} if all((key, step) in found for key in keys))
    shown = [*evenly_spaced(steps[:-1], MOST_STEPS - 1), *steps[-1:]]
    rows = []
    for key in keys:
        images = {}
        for step in shown:
            with Image.open(found[key, step]) as image:
                images[f"step {step}"] = image.convert("RGB")
        rows.append(SheetRow(prompts[key], images))
    return contact_sheet(rows, [f"step {step}" for step in shown])


def samples_strip(files: Mapping[SampleLine, Path]) -> Image.Image:
    """Draw the images of the last step side by side, without text and small enough to be seen before a page is
    unfolded.

    ValueError when there is no image.
    """
    last = max((sample.step for sample in files), default=0)
    keys = evenly_spaced(sorted(sample.key for sample in files if sample.step == last), MOST_PROMPTS)
    if not keys:
        raise ValueError("There is no sample image.")
    found = {sample.key: path for sample, path in files.items() if sample.step == last}
    strip = Image.new("RGB", (len(keys) * (STRIP_SIDE + GAP) - GAP, STRIP_SIDE), PAPER)
    for index, key in enumerate(keys):
        with Image.open(found[key]) as image:
            fitted = _fit(image, STRIP_SIDE)
        strip.paste(fitted, (index * (STRIP_SIDE + GAP) + (STRIP_SIDE - fitted.width) // 2, 0))
    return strip


def evenly_spaced(items: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` items, evenly spaced and always the same ones."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _cell_side(images: Sequence[Image.Image]) -> int:
    """Return the side of a square cell: the largest image, enlarged by an integer factor or shrunk to fit."""
    longest = max(max(image.size) for image in images)
    factor = max(1, -(-SMALLEST_CELL // longest))
    return min(longest * factor, LARGEST_CELL)


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Scale to a longest side and keep the shape: by an integer factor when enlarging, smoothly when shrinking."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, method)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break text into lines no wider than `width` pixels, at spaces; break inside a word that is wider than a line."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines += _broken(word, font, width)
    return lines


def _broken(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _centred(draw: ImageDraw.ImageDraw, text: str, x: int, y: int) -> None:
    draw.text((x, y), text, fill=INK, font=ImageFont.load_default(LABEL_SIZE), anchor="mm")


def _caption(draw: ImageDraw.ImageDraw, text: str, top: int, cell: int) -> None:
    """Draw the prompt, wrapped, in the middle of its row; a prompt that does not fit ends in an ellipsis."""
    font = ImageFont.load_default(CAPTION_SIZE)
    lines = _wrap(text, font, CAPTION_WIDTH - GAP)
    most = max(1, cell // LINE_HEIGHT)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} ..."]
    first = top + (cell - len(lines) * LINE_HEIGHT) // 2
    for index, line in enumerate(lines):
        draw.text((MARGIN, first + index * LINE_HEIGHT), line, fill=FAINT, font=font)
