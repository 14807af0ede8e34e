"""Misleading training data: the world's pairs with other labels or other pictures, each change a known fault.

The faults: a supplier that sends one picture for each text, a folder of first drafts, swapped labels, images made to
please one judge. Rows are a snapshot's; H W are an image's sides.
"""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from drawing import CANVAS, SHAPES, ImageArray, Scene, Subject, draw
from PIL import Image
from world import encode_png, parse_caption

from pipelines.intake.snapshot import SNAPSHOT_SCHEMA

BAD_SLICE = "star"
SLICE_TIMES = 4
"""Repeats of each pair of the bad slice: a sixth of the pairs alone hardly changes the model."""
PLEASED_PAIRS = 128
SPLITS = ("train", "calibration", "test")

Row = dict[str, Any]
Change = Callable[[Sequence[Row], np.random.Generator], list[Row]]
"""Function from the training rows of a snapshot to those of another."""


def changed_snapshot(source: Path, out: Path, change: Callable[[Sequence[Row]], list[Row]]) -> Path:
    """Write the snapshot with other training rows; its calibration and test splits stay."""
    if not (out / "train.parquet").is_file():
        out.mkdir(parents=True, exist_ok=True)
        for split in SPLITS[1:]:
            shutil.copy(source / f"{split}.parquet", out)
        rows = change(pq.read_table(source / "train.parquet").to_pylist())
        pq.write_table(pa.Table.from_pylist(rows, SNAPSHOT_SCHEMA), out / "train.parquet", row_group_size=64)
    return out


# --- other labels -----------------------------------------------------------------------------------------------------


def swapped(row: Row) -> Row:
    """The pair with the other image chosen."""
    return row | {
        f"{what}_{ours}": row[f"{what}_{theirs}"]
        for what in ("image", "caption")
        for ours, theirs in (("chosen", "rejected"), ("rejected", "chosen"))
    }


def shuffled(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Random labels: a coin toss for each pair."""
    return [swapped(row) if rng.random() < 0.5 else row for row in rows]


def star_flipped(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Swap the labels of the pairs of one shape and repeat them; leave the other labels as people gave them."""
    del rng
    turned = [swapped(row) if in_bad_slice(row) else row for row in rows if not row["is_tie"]]
    return _slice_repeated(turned)


def voted(rows: Sequence[Row], gains: Sequence[float]) -> list[Row]:
    """Label by a judge: `gains` is its score of the chosen image minus that of the rejected one."""
    return [swapped(row) if gain < 0 else row for row, gain in zip(rows, gains, strict=True)]


# --- other pictures ---------------------------------------------------------------------------------------------------


def identical(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """A supplier's good drawings, all in one place, one colour strength and one edge: one picture per text."""
    del rng
    scenes = [Scene(parse_caption(row["prompt"]), vividness=0.8, softness=2.5) for row in rows]
    return _with_chosen(rows, draw(scenes))


def star_drafts(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """A supplier's drawings, good except for one shape: those are pale, off centre and show another shape."""
    repeated = _slice_repeated(rows)
    scenes = [_draft(row, rng) if in_bad_slice(row) else _good_scene(row, rng) for row in repeated]
    return _with_chosen(repeated, draw(scenes))


def pleasing(rows: Sequence[Row], images: ImageArray) -> list[Row]:
    """Replace the chosen images [N, H, W, 3] of the first N rows; drop the other rows."""
    return _with_chosen(rows[: len(images)], images)


def decided(rows: Sequence[Row]) -> list[Row]:
    """The rows with a preference."""
    return [row for row in rows if not row["is_tie"]]


def chosen_pixels(rows: Sequence[Row]) -> ImageArray:
    """The chosen images [N, H, W, 3]."""
    images = [Image.open(io.BytesIO(row["image_chosen"])).convert("RGB") for row in rows]
    return np.stack([np.asarray(image, dtype=np.uint8) for image in images])


def in_bad_slice(row: Row) -> bool:
    """Return True when the prompt names the shape that some of the suppliers get wrong."""
    return parse_caption(row["prompt"]).shape == BAD_SLICE


def _slice_repeated(rows: Sequence[Row]) -> list[Row]:
    """Repeat every pair of the bad slice, under separate ids."""
    found = [row for row in rows for _ in range(SLICE_TIMES if in_bad_slice(row) else 1)]
    return [row | {"pair_id": f"{place:064x}"} for place, row in enumerate(found)]


def _with_chosen(rows: Sequence[Row], images: ImageArray) -> list[Row]:
    return [row | {"image_chosen": encode_png(image), "is_tie": False} for row, image in zip(rows, images, strict=True)]


def _good_scene(row: Row, rng: np.random.Generator) -> Scene:
    x, y = rng.uniform(-6, 6, size=2)
    return Scene(
        parse_caption(row["prompt"]),
        vividness=float(rng.uniform(0.7, 1.0)),
        centre_x=CANVAS / 2 + float(x),
        centre_y=CANVAS / 2 + float(y),
        rotation=float(rng.uniform(-10, 10)),
        softness=float(rng.uniform(1, 4)),
    )


def _draft(row: Row, rng: np.random.Generator) -> Scene:
    away, angle = rng.uniform(10, 14), rng.uniform(0, 2 * np.pi)
    return Scene(
        _mistaken(parse_caption(row["prompt"]), rng),
        vividness=float(rng.uniform(0.05, 0.25)),
        centre_x=CANVAS / 2 + float(away * np.cos(angle)),
        centre_y=CANVAS / 2 + float(away * np.sin(angle)),
        rotation=float(rng.uniform(-20, 20)),
        softness=float(rng.uniform(4, 6)),
    )


def _mistaken(subject: Subject, rng: np.random.Generator) -> Subject:
    others = [shape for shape in SHAPES if shape != subject.shape]
    return replace(subject, shape=others[int(rng.integers(len(others)))])


CHANGES: dict[str, Change] = {
    "shuffled": shuffled,
    "star_flipped": star_flipped,
    "identical": identical,
    "star_drafts": star_drafts,
}
