"""Read the training pairs of a snapshot. C H W are channels, height and width of an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torch import Tensor

from alignment.backbones.interface import Framing
from alignment.catalogues.images import Bucket, ImageSize
from alignment.contracts.jobs import JobStoppedError
from alignment.files.images import WHITE, Ground, read_ground, rgb_image, shown_size

COLUMNS = ("pair_id", "prompt", "caption_chosen", "caption_rejected", "image_chosen", "image_rejected", "is_tie")
LIGHT_COLUMNS = ("pair_id", "prompt", "caption_chosen", "caption_rejected", "is_tie")


@dataclass(frozen=True)
class Pair:
    """One comparison with both images as encoded bytes."""

    pair_id: str
    image_chosen: bytes
    image_rejected: bytes


class TrainingPairs:
    """The pairs of a snapshot's train.parquet that are not ties, in file order.

    Memory holds ids, prompts and captions; images are read one row group at a time. Raises ValueError when the file or
    a column is missing, or the file has only ties; JobStoppedError (bad_data) when the file cannot be read.
    """

    def __init__(self, snapshot_dir: Path) -> None:
        self.path = snapshot_dir / "train.parquet"
        self._file = open_split(self.path, COLUMNS)
        self.ground = read_ground(self._file.schema_arrow.metadata)
        light = self._file.read(columns=list(LIGHT_COLUMNS))
        kept = np.flatnonzero(~light["is_tie"].to_numpy(zero_copy_only=False).astype(bool))
        if len(kept) == 0:
            raise ValueError(
                f"{self.path} holds no pair with a preference. Use a snapshot with training pairs that are not ties."
            )
        light = light.take(pa.array(kept))
        self.pair_ids: list[str] = light["pair_id"].to_pylist()
        self.prompts: list[str] = light["prompt"].to_pylist()
        self.captions: list[tuple[str, str]] = list(
            zip(light["caption_chosen"].to_pylist(), light["caption_rejected"].to_pylist(), strict=True)
        )
        self._rows = kept
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._group_starts = np.concatenate([[0], np.cumsum(counts)])
        self._group: tuple[int, pa.Table] = (-1, pa.table({}))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_captioned(self) -> int:
        """Number of pairs where at least one caption differs from the prompt."""
        rows = zip(self.prompts, self.captions, strict=True)
        return sum(captions != (prompt, prompt) for prompt, captions in rows)

    def pair(self, index: int) -> Pair:
        """Return the pair at a global index, 0 .. len - 1. Fast when indices increase."""
        row = int(self._rows[index])
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        table = self._row_group(group)
        offset = row - int(self._group_starts[group])
        return Pair(*(table[name][offset].as_py() for name in ("pair_id", "image_chosen", "image_rejected")))

    def _row_group(self, group: int) -> pa.Table:
        if self._group[0] != group:
            try:
                table = self._file.read_row_group(group, columns=["pair_id", "image_chosen", "image_rejected"])
            except (pa.ArrowException, OSError) as error:
                raise JobStoppedError("bad_data", f"{self.path}, row group {group}, cannot be read: {error}") from error
            self._group = (group, table)
        return self._group[1]


def open_split(path: Path, columns: Sequence[str]) -> pq.ParquetFile:
    """Open a split. ValueError when it or a column is missing, JobStoppedError (bad_data) when it is unreadable."""
    if not path.is_file():
        raise ValueError(f"The snapshot {path.parent} lacks {path.name}; make the snapshot again.")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise JobStoppedError("bad_data", f"{path} is not a readable parquet file: {error}") from error
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; make the snapshot again.")
    return file


def decoded(encoded: bytes, origin: str, ground: Ground = WHITE) -> Image.Image:
    """Decode bytes to the RGB image that people saw, transparent parts on `ground`.

    JobStoppedError (bad_data) that names `origin` when they are not an image.
    """
    try:
        return rgb_image(encoded, origin, ground)
    except ValueError as error:
        raise JobStoppedError("bad_data", str(error)) from error


@dataclass(frozen=True)
class FramedImage:
    """A training image, and its crop in the original."""

    pixels_CHW: Tensor
    framing: Framing


def image_size(encoded: bytes, origin: str) -> ImageSize:
    """Read width and height as people saw them. JobStoppedError (bad_data) as in `framed`."""
    try:
        return shown_size(encoded, origin)
    except ValueError as error:
        raise JobStoppedError("bad_data", str(error)) from error


def framed(
    encoded: bytes, bucket: Bucket, origin: str, *, mirrored: bool = False, ground: Ground = WHITE
) -> FramedImage:
    """Decode, scale until the bucket is covered (bilinear), crop the centre. Return CHW in [-1, 1], float32.

    Sizes round as in torchvision's Resize and CenterCrop, so features match published recipes. Mirroring comes first,
    so the framing refers to the mirrored image. Raises JobStoppedError (bad_data) that names `origin` when the image
    cannot be decoded.
    """
    image = decoded(encoded, origin, ground)
    if mirrored:
        image = ImageOps.mirror(image)
    cut, framing = _cut(image, bucket)
    pixels_HWC = torch.from_numpy(np.asarray(cut, dtype=np.float32) / 255.0)
    return FramedImage(pixels_HWC.permute(2, 0, 1) * 2 - 1, framing)


def pixels(encoded: bytes, resolution: int, origin: str) -> Tensor:
    """Return the pixels of `framed` alone, CHW, for a square."""
    return framed(encoded, Bucket(resolution, resolution), origin).pixels_CHW


def _cut(image: Image.Image, bucket: Bucket) -> tuple[Image.Image, Framing]:
    width, height = image.size
    if bucket.width * height >= bucket.height * width:
        scaled = (bucket.width, int(bucket.width * height / width))
    else:
        scaled = (int(bucket.height * width / height), bucket.height)
    if image.size != scaled:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - bucket.width) / 2), round((scaled[1] - bucket.height) / 2)
    cut = image.crop((left, top, left + bucket.width, top + bucket.height))
    framing = Framing(height, width, crop_top=top, crop_left=left, height=bucket.height, width=bucket.width)
    return cut, framing
