"""Captioned snapshots: captions are made shard by shard, then train.parquet is written again with them.

    captions/00000.json    sha256 of an image's bytes -> its caption, `shard_images` of them
    train.parquet          the snapshot's rows in order, caption_chosen and caption_rejected filled; ties unchanged
    calibration.parquet, test.parquet    byte for byte the snapshot's

One process captions a complete shard, in pieces of fixed size, and publishes it in one step: captions do not depend
on the number of processes, and an interrupted run continues with the missing shards.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alignment.contracts.captions import GeneratedCaptions, HybridCaptions, PerturbedPrompts
from alignment.data.pairs import TrainingPairs, decoded
from alignment.files.durable import write_json
from alignment.labelling.perturbation import perturbed, vocabulary

IMAGES_AT_ONCE = 8
"""Images in one pass of the captioner. Part of the captions' definition, hence not a setting of the placement."""
TRAIN_FILE = "train.parquet"
CARRIED_OVER = ("calibration.parquet", "test.parquet")
CAPTIONS_DIR = "captions"
SIDES = ("chosen", "rejected")
_IMAGE_COLUMNS = ("image_chosen", "image_rejected")

Caption = Callable[[list[Image.Image]], list[str]]
Texts = list[tuple[str, str]]
"""Training captions of the chosen and the rejected image of each pair."""


@dataclass(frozen=True)
class _Occurrence:
    """First occurrence of a distinct image: a pair's global index, and the side."""

    digest: str
    pair: int
    side: int


class ImageCaptions:
    """Captions of a snapshot's distinct images; any number of processes may divide the work."""

    def __init__(self, pairs: TrainingPairs, out: Path, *, shard_images: int) -> None:
        self.pairs = pairs
        self.digests: list[tuple[str, str]] = []
        """sha256 of both images of each pair."""
        self._folder = out / CAPTIONS_DIR
        first: dict[str, _Occurrence] = {}
        for index in range(len(pairs)):
            pair = pairs.pair(index)
            both = (_sha256(pair.image_chosen), _sha256(pair.image_rejected))
            self.digests.append(both)
            for side, digest in enumerate(both):
                first.setdefault(digest, _Occurrence(digest, index, side))
        seen = list(first.values())
        self.shards = [seen[start : start + shard_images] for start in range(0, len(seen), shard_images)]

    @property
    def num_images(self) -> int:
        """Number of distinct images."""
        return sum(map(len, self.shards))

    def write(self, caption: Caption, rank: int, num_processes: int, on_shard: Callable[[], None]) -> None:
        """Caption this process's shards, skipping finished ones; `on_shard` is called after each.

        ValueError when an image gets an empty caption.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(rank, len(self.shards), num_processes):
            if not self._path(number).is_file():
                write_json(self._path(number), self._captions(self.shards[number], caption))
            on_shard()

    def num_finished(self) -> int:
        """Count the shards on disk, whichever process wrote them."""
        return sum(self._path(number).is_file() for number in range(len(self.shards)))

    def texts(self) -> Texts:
        """Return the captions of both images of each pair, once every shard exists."""
        captions_by_digest: dict[str, str] = {}
        for number in range(len(self.shards)):
            captions_by_digest |= json.loads(self._path(number).read_text(encoding="utf-8"))
        return [(captions_by_digest[chosen], captions_by_digest[rejected]) for chosen, rejected in self.digests]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.json"

    def _captions(self, shard: list[_Occurrence], caption: Caption) -> dict[str, str]:
        captions_by_digest: dict[str, str] = {}
        for start in range(0, len(shard), IMAGES_AT_ONCE):
            piece = shard[start : start + IMAGES_AT_ONCE]
            captions = caption([self._image(seen) for seen in piece])
            captions_by_digest |= {seen.digest: text for seen, text in zip(piece, captions, strict=True)}
        empty = [seen for seen in shard if not captions_by_digest[seen.digest].strip()]
        if empty:
            raise ValueError(
                f"The captioner returned an empty caption for {len(empty)} of {len(shard)} images, first"
                f" {self._name(empty[0])}. Check that its tokenizer and weights match, or use another captioner."
            )
        return captions_by_digest

    def _image(self, seen: _Occurrence) -> Image.Image:
        pair = self.pairs.pair(seen.pair)
        encoded = (pair.image_chosen, pair.image_rejected)[seen.side]
        return decoded(encoded, self._name(seen), self.pairs.ground)

    def _name(self, seen: _Occurrence) -> str:
        return f"image_{SIDES[seen.side]} of pair {self.pairs.pair(seen.pair).pair_id}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the three methods to make both texts -----------------------------------------------------------------------------


def pair_texts(
    method: GeneratedCaptions | PerturbedPrompts | HybridCaptions, pairs: TrainingPairs, generated: Texts
) -> Texts:
    """Return both texts of each pair by the method; `generated` are the captioner's, which DCPO-p does not use.

    Replacement words come from texts of the same kind as the perturbed ones: the snapshot's prompts, or the captions of
    all its images.
    """
    if isinstance(method, GeneratedCaptions):
        return generated
    if isinstance(method, PerturbedPrompts):
        generated = [(prompt, prompt) for prompt in pairs.prompts]
    words = vocabulary(text for both in generated for text in both)
    return [
        (chosen, perturbed(rejected, words, perturbation=method.perturbation, pair_id=pair_id))
        for (chosen, rejected), pair_id in zip(generated, pairs.pair_ids, strict=True)
    ]


# --- the new snapshot -------------------------------------------------------------------------------------------------


def write_captioned(snapshot_dir: Path, out: Path, texts: Texts) -> None:
    """Write the snapshot's splits to `out`, with `texts` filled into the training pairs that are not ties, in order.

    The same texts give the same bytes. Each file gets its final name when it is complete.
    """
    for name in CARRIED_OVER:
        draft = out / f".{name}.part"
        shutil.copyfile(snapshot_dir / name, draft)
        draft.replace(out / name)
    draft = out / f".{TRAIN_FILE}.part"
    with pq.ParquetFile(snapshot_dir / TRAIN_FILE) as source:
        schema = source.schema_arrow
        plain = [name for name in schema.names if name not in _IMAGE_COLUMNS]
        compression = {name: "zstd" if name in plain else "none" for name in schema.names}
        with pq.ParquetWriter(
            draft, schema, compression=compression, use_dictionary=plain, write_statistics=plain
        ) as writer:
            left = iter(texts)
            for group in range(source.num_row_groups):
                writer.write_table(_captioned(source.read_row_group(group), left))
    assert next(left, None) is None, "one text for each pair that is not a tie"
    draft.replace(out / TRAIN_FILE)


def snapshot_files(out: Path) -> list[Path]:
    """List every file of a finished captioned snapshot."""
    return [out / TRAIN_FILE, *(out / name for name in CARRIED_OVER), *sorted((out / CAPTIONS_DIR).glob("*.json"))]


def _captioned(table: pa.Table, texts: Iterator[tuple[str, str]]) -> pa.Table:
    """Fill the next texts into the rows of a row group that are not ties."""
    before = zip(table["caption_chosen"].to_pylist(), table["caption_rejected"].to_pylist(), strict=True)
    rows = [old if tie else next(texts) for tie, old in zip(table["is_tie"].to_pylist(), before, strict=True)]
    for side, name in enumerate(("caption_chosen", "caption_rejected")):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array([row[side] for row in rows], pa.string()))
    return table
