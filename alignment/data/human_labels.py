"""Rows of a snapshot as votes on items, with the two sides in the order of the images' digests. Torch-free.

An item is two images and a prompt. Several annotators may have compared it, each in a separate row (ballot). The order
is independent of the label: if the chosen image came first, a labeler that favours the first side would look right.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.data import Split
from alignment.contracts.jobs import JobStoppedError
from alignment.contracts.values import canonical_json
from alignment.files.images import WHITE, Ground, read_ground

HELDOUT_SPLITS: tuple[Split, ...] = ("calibration", "test")
COLUMNS = ("pair_id", "prompt", "image_chosen", "image_rejected", "is_tie", "annotator_id", "source")
READ_ROWS = 32


@dataclass(frozen=True)
class Ballot:
    """One row, without its images."""

    pair_id: str
    item: str
    """sha256 over the two images' digests and the prompt: the same for every annotator."""
    chosen_is_first: bool
    """True if the chosen image is the item's first side, the one with the smaller digest."""
    is_tie: bool
    annotator_id: str
    source: str

    @property
    def preference(self) -> float:
        """1 if the first side was preferred, -1 if the second was, 0 for a tie."""
        return 0.0 if self.is_tie else 1.0 if self.chosen_is_first else -1.0


@dataclass(frozen=True)
class ItemImages:
    """The two images of an item, as encoded bytes."""

    item: str
    prompt: str
    first: bytes
    second: bytes
    ground: Ground = WHITE
    """Colour behind transparent parts."""


def read_ballots(snapshot_dir: Path, split: Split) -> list[Ballot]:
    """Read every row of a split, in order. ValueError when the file or a column is missing."""
    return [_ballot(row) for row in _rows(snapshot_dir, split)]


def read_items(snapshot_dir: Path, splits: Sequence[Split], wanted: set[str]) -> Iterator[ItemImages]:
    """Yield each wanted item once, in the order of the files. Memory holds a few rows at a time."""
    left = set(wanted)
    for split in splits:
        for row in _rows(snapshot_dir, split):
            ballot = _ballot(row)
            if ballot.item not in left:
                continue
            left.remove(ballot.item)
            sides = (row["image_chosen"], row["image_rejected"])
            first, second = sides if ballot.chosen_is_first else sides[::-1]
            yield ItemImages(ballot.item, row["prompt"], first, second, row["ground"])


def _ballot(row: dict[str, Any]) -> Ballot:
    chosen, rejected = (hashlib.sha256(row[f"image_{side}"]).hexdigest() for side in ("chosen", "rejected"))
    identity = canonical_json([*sorted((chosen, rejected)), row["prompt"]])
    return Ballot(
        pair_id=row["pair_id"],
        item=hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest(),
        chosen_is_first=chosen <= rejected,
        is_tie=bool(row["is_tie"]),
        annotator_id=row["annotator_id"] or "",
        source=row["source"],
    )


def _rows(snapshot_dir: Path, split: Split) -> Iterator[dict[str, Any]]:
    path = snapshot_dir / f"{split}.parquet"
    if not path.is_file():
        raise ValueError(f"The snapshot {snapshot_dir} lacks {path.name}; make the snapshot again.")
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; make the snapshot again.")
            ground = read_ground(file.schema_arrow.metadata)
            for batch in file.iter_batches(READ_ROWS, columns=list(COLUMNS)):
                yield from ({**row, "ground": ground} for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise JobStoppedError("bad_data", f"{path} cannot be read: {error}") from error
