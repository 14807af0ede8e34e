"""Read Pick-a-Pic v2 parquet shards from a folder or an S3 prefix. Images are inside; their URLs are never fetched."""

import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alignment.catalogues.lookup import unknown_name
from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.host import this_host
from pipelines.intake.sources.interface import SOURCE_SCHEMA
from pipelines.project.sections import SourceSection
from pipelines.store.range_file import RangeFile
from pipelines.store.storage import Store

_LABELS = {(1.0, 0.0): 1.0, (0.0, 1.0): 0.0, (0.5, 0.5): 0.5}
_READ_BUFFER_BYTES = 1024 * 1024
INSPECTED_SHARDS = 16
"""Shards whose index is read to count rows; the number of rows of the others is estimated."""

# Our column names to those of the file, and the types that the file may use.
_REQUIRED = {
    "prompt": ("caption", "string"),
    "image_0": ("jpg_0", "binary"),
    "image_1": ("jpg_1", "binary"),
    "label_0": ("label_0", "number"),
    "label_1": ("label_1", "number"),
    "has_label": ("has_label", "bool"),
    "user_id": ("user_id", "integer or string"),
    "created_at": ("created_at", "timestamp"),
    "generator_0": ("model_0", "string"),
    "generator_1": ("model_1", "string"),
}
_OPTIONAL = {"caption_0": ("caption_0", "string"), "caption_1": ("caption_1", "string")}


def _preference_from_labels(label_0: float, label_1: float) -> float:
    """Return 1 when image 0 is preferred, 0 when image 1 is, 0.5 for a tie, NaN when the labels are not legal."""
    return _LABELS.get((label_0, label_1), math.nan)


class PickAPicSource:
    """Reads the columns that alignment needs and ignores the others."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every .parquet file under the source's folder or prefix, sorted; ValueError when there is none."""
        return tuple(_shard(source, uri, *store.stat(uri)) for uri in _shard_uris(source, store))

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Read the index at the end of some shards; see `PairSource.inspect`."""
        uris = _shard_uris(source, store)
        step = -(-len(uris) // INSPECTED_SHARDS)
        counts = [_count_rows(uri, store) for uri in uris[::step]]
        return SourceFacts(
            num_shards=len(uris), num_rows=round(sum(counts) / len(counts) * len(uris)), is_estimate=step > 1
        )

    def read_shard(self, path: Path, name: str, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield rows in SOURCE_SCHEMA, at most `rows` at a time, in memory that does not grow with the file."""
        try:
            with pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file:
                columns = _columns(file.schema_arrow, name)
                for batch in file.iter_batches(rows, columns=list(columns.values()), use_threads=False):
                    batch.validate(full=True)
                    yield _to_source_schema(batch, columns)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise ValueError(
                f"{name} cannot be read as parquet: {error}. It is missing, truncated or damaged: fetch it again."
            ) from error


def _shard_uris(source: SourceSection, store: Store) -> list[str]:
    uris = [uri for uri in store.list_uris(source.uri) if uri.endswith(".parquet")]
    if not uris:
        raise ValueError(
            f"Source {source.name!r}: no .parquet file under {source.uri}{_on_this_host(source.uri)}. Check `uri`"
            " in the project file, and that the files exist. Hosts without a common disk read pairs from s3://..."
        )
    return uris


def _count_rows(uri: str, store: Store) -> int:
    """Return the number of rows of a shard; ValueError when its columns are not those of Pick-a-Pic v2."""
    try:
        with _opened(uri, store) as opened, pq.ParquetFile(opened) as file:
            _columns(file.schema_arrow, uri)
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri} cannot be read as parquet: {error}. It is truncated or damaged.") from error


def _opened(uri: str, store: Store) -> pa.NativeFile:
    """Open a shard where it is, so that only the parts that are read are fetched."""
    if uri.startswith("s3://"):
        return pa.PythonFile(RangeFile(store, uri), mode="r")
    return pa.OSFile(str(store.local_path(uri, Path())))


def _on_this_host(uri: str) -> str:
    return "" if uri.startswith("s3://") else f" on host {this_host()}"


def _shard(source: SourceSection, uri: str, num_bytes: int, fingerprint: str) -> SourceShard:
    return SourceShard(source=source.name, uri=uri, num_bytes=num_bytes, fingerprint=fingerprint)


def _columns(schema: pa.Schema, name: str) -> dict[str, str]:
    """Map our column names to those of the file; ValueError names every column that is missing or of the wrong type."""
    expected = dict(_REQUIRED.values())
    problems = []
    for ours, (theirs, kind) in {**_REQUIRED, **_OPTIONAL}.items():
        if theirs in schema.names:
            if not _holds(schema.field(theirs).type, kind):
                problems.append(f"column {theirs!r} holds {schema.field(theirs).type}, expected {kind}.")
        elif ours in _REQUIRED:
            problems.append(f"{unknown_name('column', theirs, schema.names)} Expected {theirs!r} ({kind}).")
    if problems:
        listed = ", ".join(f"{theirs} ({kind})" for theirs, kind in expected.items())
        raise ValueError(f"{name} is not a Pick-a-Pic v2 shard: {' '.join(problems)} All expected columns: {listed}.")
    return {ours: theirs for ours, (theirs, _) in {**_REQUIRED, **_OPTIONAL}.items() if theirs in schema.names}


def _holds(kind: pa.DataType, expected: str) -> bool:
    """Return True when a column of this type is valid as the expected one; an all-null column is valid as any."""
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_integer = pa.types.is_integer(kind)
    fits: dict[str, bool] = {
        "string": is_string,
        "binary": pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
        "number": pa.types.is_floating(kind) or is_integer,
        "bool": pa.types.is_boolean(kind),
        "integer or string": is_integer or is_string,
        "timestamp": pa.types.is_timestamp(kind),
    }
    return fits[expected] or bool(pa.types.is_null(kind))


def _to_source_schema(batch: pa.RecordBatch, columns: dict[str, str]) -> pa.RecordBatch:
    arrays = {ours: batch.column(theirs) for ours, theirs in columns.items()}
    labels = [pc.cast(arrays[name], pa.float64()).to_pylist() for name in ("label_0", "label_1")]
    preferences = [_preference_from_labels(a, b) for a, b in zip(*labels, strict=True)]
    arrays["preference"] = pa.array(preferences, pa.float64())
    nothing = pa.nulls(batch.num_rows)
    fields = [pc.cast(arrays.get(field.name, nothing), field.type, safe=False) for field in SOURCE_SCHEMA]
    return pa.RecordBatch.from_arrays(fields, schema=SOURCE_SCHEMA)
