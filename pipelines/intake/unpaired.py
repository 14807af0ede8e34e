"""The table of single images in a snapshot: likes and dislikes, beside the tables of pairs.

A snapshot has the table only where it has such rows, so that the digests of others do not depend on it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.data import SPLITS, Split
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.pairs import PairWriter, is_unpaired, read_batches
from pipelines.intake.sources.columns import UNPAIRED
from pipelines.store.storage import Store

UNPAIRED_FILE = "unpaired.parquet"
UNPAIRED_TABLE_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string()),
        pa.field("kind", pa.string()),  # UNPAIRED
        pa.field("split", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("caption", pa.string()),  # the prompt unless the source has captions
        pa.field("image", pa.binary()),
        pa.field("liked", pa.bool_()),
        pa.field("annotator_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("generator", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


def divided(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the tables of pairs and those of single images, each in order."""
    found: tuple[list[Path], list[Path]] = ([], [])
    for path in paths:
        found[is_unpaired(pq.read_schema(path).names)].append(path)
    return found


def write_unpaired(
    rows: Iterable[dict[str, Any]], out: Path, *, split_of: Callable[[str], Split], schema: pa.Schema
) -> dict[Split, int] | None:
    """Write rows of a raw batch as UNPAIRED_FILE; return their number by split, or None, without a file, for no rows.

    `split_of` returns the split of a prompt; `schema` is UNPAIRED_TABLE_SCHEMA with metadata.
    """
    counts = Counter[Split]()
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return None
    found = (_row(row, split_of(row["prompt"])) for row in chain([first], rows))
    with PairWriter(out / UNPAIRED_FILE, schema) as writer:
        for row in found:
            counts[row["split"]] += 1
            writer.add(row)
    return {split: counts[split] for split in SPLITS}


def _row(row: dict[str, Any], split: Split) -> dict[str, Any]:
    same = ("pair_id", "prompt", "annotator_id", "source", "licence", "created_at")
    return {
        **{name: row[name] for name in same},
        "kind": UNPAIRED,
        "split": split,
        "caption": row["caption_0"] or row["prompt"],
        "image": row["image_0"],
        "liked": row["preference"] == 1.0,
        "generator": row["generator_0"],
    }


def read_unpaired(store: Store, snapshot_uri: str, columns: Sequence[str], scratch: Path) -> Iterator[pa.RecordBatch]:
    """Yield these columns of the single images of a snapshot, a few rows at a time; nothing where it has none."""
    manifest = store.read_manifest(snapshot_uri)
    if manifest is not None and UNPAIRED_FILE in manifest.files:
        yield from read_batches(fetch_checked(store, snapshot_uri, UNPAIRED_FILE, scratch), list(columns))
