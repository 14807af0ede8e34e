"""Columns of the pair tables, the identity of a pair, and the parquet format in which intake writes them."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.values import canonical_json
from pipelines.intake.sources.columns import KIND_FIELD, SOURCE_SCHEMA, VOTE_FIELDS

PAIRS_FILE = "pairs.parquet"
ACCEPTED_FILE = "accepted.parquet"
QUARANTINE_FILE = "quarantine.parquet"
ROWS_AT_ONCE = 32
"""Rows held in memory at a time, each with two images of at most max_image_bytes."""

ROWS_TOGETHER = 1024
"""Largest number of rows whose facts are computed at once and that become one row group of a raw batch."""
BYTES_TOGETHER = 8 * 2**20
"""Bytes of rows, images included, from which no further rows are joined to a group."""

IMAGE_COLUMNS = ("image_0", "image_1", "image_chosen", "image_rejected", "image")
FACT_FIELDS = {
    "sha256": pa.string(),
    "num_bytes": pa.int64(),
    "problem": pa.string(),
    "format": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "converted": pa.bool_(),
    "sharpness": pa.float64(),
    "mean_luminance": pa.float64(),
}
"""ImageFacts as columns: each exists twice, as name_0 and name_1."""

PAIRS_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string()),
        *(field for field in SOURCE_SCHEMA if field.name != "user_id"),
        pa.field("annotator_id", pa.string()),  # keyed hash; empty where the source names no annotator
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("source_row", pa.int64()),
        *(pa.field(f"{name}_{side}", kind) for side in (0, 1) for name, kind in FACT_FIELDS.items()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        *(PAIRS_SCHEMA.field(name) for name in ("source_file", "source_row", "pair_id")),
        pa.field("reasons", pa.list_(pa.string())),
        *(field for field in PAIRS_SCHEMA if field.name not in ("source_file", "source_row", "pair_id")),
    ]
)


def pairs_schema(names: Collection[str]) -> pa.Schema:
    """Return the columns of a pair table with at least these: votes and `kind` only where the source has them."""
    return pa.schema([*PAIRS_SCHEMA, *_further(names)])


def quarantine_schema(names: Collection[str]) -> pa.Schema:
    """Return the columns of a quarantine whose rows have at least these columns."""
    return pa.schema([*QUARANTINE_SCHEMA, *_further(names)])


def is_unpaired(names: Collection[str]) -> bool:
    """Return True if a table with these columns has one image a row; all rows of a table are of one sort."""
    return KIND_FIELD.name in names


def _further(names: Collection[str]) -> tuple[pa.Field, ...]:
    votes = VOTE_FIELDS if VOTE_FIELDS[0].name in names else ()
    return (*votes, KIND_FIELD) if is_unpaired(names) else votes


def pair_id(sha256_0: str, sha256_1: str | None, *, prompt: str, annotator_id: str) -> str:
    """Return the identity of a comparison: the two images in either order, the prompt and the annotator. The labels do
    not count. `sha256_1` is None for a row with one image.
    """
    identity = canonical_json([*sorted([sha256_0, sha256_1 or ""]), prompt, annotator_id])
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


class PairWriter:
    """Writes a parquet file; the same rows, written in the same way, give the same bytes. Use as a context manager."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._waiting, self._waiting_bytes = schema, list[Mapping[str, Any]](), 0
        plain = [name for name in schema.names if name not in IMAGE_COLUMNS]
        # Encoded images do not compress, and their statistics would repeat them.
        compression = {name: "zstd" if name in plain else "none" for name in schema.names}
        self._writer = pq.ParquetWriter(
            path, schema, compression=compression, use_dictionary=plain, write_statistics=plain
        )

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._writer:
            if kind is None:
                self._write_waiting()

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Append rows as one row group."""
        if batch.num_rows:
            self._writer.write_table(pa.table(batch) if isinstance(batch, pa.RecordBatch) else batch)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row. Rows become a row group when they are ROWS_TOGETHER, or their images BYTES_TOGETHER.

        The writer remembers some 10 KB about each row group until it is closed, so groups of a few rows cost memory.
        """
        self._waiting.append(row)
        self._waiting_bytes += sum(len(row.get(name) or b"") for name in IMAGE_COLUMNS)
        if len(self._waiting) >= ROWS_TOGETHER or self._waiting_bytes >= BYTES_TOGETHER:
            self._write_waiting()

    def _write_waiting(self) -> None:
        self.write(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting, self._waiting_bytes = [], 0


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a pair table a few rows at a time, in order; ValueError when it is damaged."""
    try:
        with pq.ParquetFile(path, buffer_size=1024 * 1024, pre_buffer=False) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}. Run the stage that writes it again.") from error


def read_light(path: Path) -> pa.Table:
    """Read every column of a pair table except the images: a complete shard of these fits in memory."""
    names = [name for name in pq.read_schema(path).names if name not in IMAGE_COLUMNS]
    return pq.read_table(path, columns=names, use_threads=False)
