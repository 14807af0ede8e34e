"""Reading a snapshot: ties, order, row groups, pixels, damaged files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alignment.backbones.interface import Framing
from alignment.catalogues.images import Bucket
from alignment.contracts.jobs import JobStoppedError
from alignment.data.pairs import TrainingPairs, framed, image_size, pixels
from alignment.files.images import ground_metadata


def write(folder: Path, *, ties: list[bool], rows_per_group: int = 2, drop: str = "") -> Path:
    count = len(ties)
    columns: dict[str, list[Any]] = {
        "pair_id": [f"p{i}" for i in range(count)],
        "prompt": ["x"] * count,
        "caption_chosen": [f"chosen {i}" for i in range(count)],
        "caption_rejected": [f"rejected {i}" for i in range(count)],
        "image_chosen": [f"c{i}".encode() for i in range(count)],
        "image_rejected": [f"r{i}".encode() for i in range(count)],
        "is_tie": ties,
    }
    table = pa.table({name: values for name, values in columns.items() if name != drop})
    pq.write_table(table, folder / "train.parquet", row_group_size=rows_per_group)
    return folder


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_ties_are_left_out_and_order_is_kept_across_row_groups(tmp_path: Path) -> None:
    pairs = TrainingPairs(write(tmp_path, ties=[False, True, False, False, True, False, False]))
    assert len(pairs) == 5
    assert [pairs.pair(i).pair_id for i in range(5)] == ["p0", "p2", "p3", "p5", "p6"]
    assert pairs.pair(1).image_chosen == b"c2"
    assert pairs.pair(4).image_rejected == b"r6"
    assert pairs.pair(0).pair_id == "p0", "going back is allowed"
    assert pairs.captions[3] == ("chosen 5", "rejected 5")
    assert pairs.prompts == ["x"] * 5


def test_captioned_pairs_are_those_whose_captions_are_not_both_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, ties=[False, False, False, False, True]) / "train.parquet"
    table = pq.read_table(path)
    for name, captions in (("caption_chosen", "xxayb"), ("caption_rejected", "xyxyb")):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(list(captions)))
    pq.write_table(table, path)
    assert TrainingPairs(tmp_path).num_captioned == 3


def test_a_snapshot_with_only_ties_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pair with a preference"):
        TrainingPairs(write(tmp_path, ties=[True, True]))


def test_missing_file_and_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks train\.parquet"):
        TrainingPairs(tmp_path)
    with pytest.raises(ValueError, match=r"column\(s\) image_rejected"):
        TrainingPairs(write(tmp_path, ties=[False], drop="image_rejected"))


def test_truncated_file_is_bad_data(tmp_path: Path) -> None:
    path = write(tmp_path, ties=[False] * 4) / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JobStoppedError, match="not a readable parquet") as stopped:
        TrainingPairs(tmp_path)
    assert stopped.value.kind == "bad_data"


def test_pixels_span_minus_one_to_one() -> None:
    array = np.zeros((8, 8, 3), dtype=np.uint8)
    array[0, 1] = (255, 51, 0)
    image_CHW = pixels(png(array), 8, "x")
    assert image_CHW.shape == (3, 8, 8)
    assert image_CHW[:, 0, 1].tolist() == pytest.approx([1.0, -0.6, -1.0])
    assert image_CHW[:, 1, 1].tolist() == [-1.0, -1.0, -1.0]


def test_wide_and_tall_images_lose_only_their_ends() -> None:
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, 4:12] = 255
    assert torch.equal(pixels(png(array), 8, "x"), torch.ones(3, 8, 8))
    assert torch.equal(pixels(png(array.transpose(1, 0, 2)), 8, "x"), torch.ones(3, 8, 8))


def test_larger_images_are_scaled_and_other_modes_become_rgb() -> None:
    grey = Image.new("L", (40, 32), 102)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG")
    image_CHW = pixels(buffer.getvalue(), 16, "x")
    assert image_CHW.shape == (3, 16, 16)
    assert image_CHW.unique().tolist() == pytest.approx([-0.2])


def test_the_framing_is_the_true_size_and_the_crop_of_the_scaled_image() -> None:
    """40 x 20 scaled to 32 x 16: 8 columns go on each side; 20 x 50 to 16 x 40: 12 rows."""
    wide, tall = np.zeros((20, 40, 3), dtype=np.uint8), np.zeros((50, 20, 3), dtype=np.uint8)
    square = Bucket(16, 16)
    assert framed(png(wide), square, "x").framing == Framing(20, 40, crop_top=0, crop_left=8, height=16, width=16)
    assert framed(png(tall), square, "x").framing == Framing(50, 20, crop_top=12, crop_left=0, height=16, width=16)


def test_a_bucket_is_covered_and_its_centre_cut() -> None:
    """A 20 x 30 image in a bucket of 24 x 16 pixels: 24 x 36, of which 10 rows go on each side; 60 x 20: 48 x 16."""
    tall, wide = np.zeros((30, 20, 3), dtype=np.uint8), np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 12:36] = 255
    bucket = Bucket(width=24, height=16)
    cut = framed(png(tall), bucket, "x")
    assert cut.pixels_CHW.shape == (3, 16, 24)
    assert cut.framing == Framing(30, 20, crop_top=10, crop_left=0, height=16, width=24)
    cut = framed(png(wide), bucket, "x")
    assert cut.framing == Framing(16, 48, crop_top=0, crop_left=12, height=16, width=24)
    assert torch.equal(cut.pixels_CHW, torch.ones(3, 16, 24)), "nothing but the white middle"


def test_a_mirrored_image_is_mirrored_before_it_is_cut() -> None:
    """17 x 8 to 8 x 8: the odd leftover column is on the same side of the mirrored image."""
    array = np.random.default_rng(0).integers(0, 255, (8, 17, 3), dtype=np.uint8)
    mirrored = framed(png(array), Bucket(8, 8), "x", mirrored=True)
    theirs = framed(png(array[:, ::-1]), Bucket(8, 8), "x")
    assert torch.equal(mirrored.pixels_CHW, theirs.pixels_CHW)
    assert mirrored.framing == theirs.framing
    assert not torch.equal(mirrored.pixels_CHW, framed(png(array), Bucket(8, 8), "x").pixels_CHW)


def test_the_size_is_read_from_the_header_alone() -> None:
    encoded = png(np.random.default_rng(0).integers(0, 255, (20, 60, 3), dtype=np.uint8))
    assert image_size(encoded[:200], "x") == (60, 20)
    with pytest.raises(JobStoppedError, match="x cannot be decoded"):
        image_size(b"no image", "x")


def test_undecodable_bytes_are_bad_data() -> None:
    with pytest.raises(JobStoppedError, match="image_chosen of pair 7 cannot be decoded") as stopped:
        pixels(b"no image", 8, "image_chosen of pair 7")
    assert stopped.value.kind == "bad_data"


def test_transparent_parts_show_the_ground_of_the_snapshot(tmp_path: Path) -> None:
    assert TrainingPairs(write(tmp_path, ties=[False])).ground == (255, 255, 255)
    table = pq.read_table(tmp_path / "train.parquet").replace_schema_metadata(ground_metadata((0, 0, 255)))
    pq.write_table(table, tmp_path / "train.parquet")
    ground = TrainingPairs(tmp_path).ground
    clear = png(np.zeros((8, 8, 4), dtype=np.uint8))
    blue = framed(clear, Bucket(8, 8), "x", ground=ground).pixels_CHW
    assert torch.equal(blue[:, 0, 0], torch.tensor([-1.0, -1.0, 1.0]))
    assert torch.equal(framed(clear, Bucket(8, 8), "x").pixels_CHW, torch.ones(3, 8, 8))


def test_a_turned_image_is_as_people_saw_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 255, (20, 60, 3), dtype=np.uint8)
    Image.fromarray(array).save(buffer, "PNG", exif=exif.tobytes())
    assert image_size(buffer.getvalue(), "x") == (20, 60)
    turned = framed(buffer.getvalue(), Bucket(20, 60), "x").pixels_CHW
    assert torch.equal(turned, framed(png(np.rot90(array, -1)), Bucket(20, 60), "x").pixels_CHW)
