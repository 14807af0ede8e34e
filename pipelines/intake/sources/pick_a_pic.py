"""Read parquet shards in the layout of Pick-a-Pic from a folder or an S3 prefix.

Images are inside, as bytes or as structs of bytes and path; their URLs are never fetched. Data sets of the same layout
lack some columns: Pick-Style and Pick-Safety have no annotators, Pick-Double-Caption has a caption for each image.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.columns import SOURCE_SCHEMA
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading.layouts import HEAD_BYTES, layout_error, missing_column, readable, unreadable
from pipelines.intake.sources.reading.records import open_in_place
from pipelines.intake.sources.reading.row_groups import rows_to_read
from pipelines.intake.sources.reading.splits import list_files, shards_of
from pipelines.intake.sources.reading.texts import plain_array, plain_type, text_array, text_bytes
from pipelines.project.sections import SourceSection
from pipelines.store.storage import Store

_LABELS = {(1.0, 0.0): 1.0, (0.0, 1.0): 0.0, (0.5, 0.5): 0.5}
_READ_BUFFER_BYTES = 1024 * 1024
_WHAT = "a Pick-a-Pic shard"
INSPECTED_SHARDS = 16
"""Shards whose index is read to count rows; the number of rows of the others is estimated."""

# Our column names to those of the file, and the types that the file may use.
_REQUIRED = {
    "prompt": ("caption", "string"),
    "image_0": ("jpg_0", "binary"),
    "image_1": ("jpg_1", "binary"),
    "label_0": ("label_0", "number"),
}
_OPTIONAL = {
    "label_1": ("label_1", "number"),
    "has_label": ("has_label", "bool"),
    "user_id": ("user_id", "number or string"),
    "created_at": ("created_at", "timestamp"),
    "generator_0": ("model_0", "string"),
    "generator_1": ("model_1", "string"),
    "caption_0": ("caption_0", "string"),
    "caption_1": ("caption_1", "string"),
}
_TEXTS = ("prompt", "caption_0", "caption_1", "user_id", "generator_0", "generator_1")
_TRAINED_TEXTS = ("prompt", "caption_0", "caption_1")


def _preference_from_labels(label_0: float, label_1: float) -> float:
    """Return 1 when image 0 is preferred, 0 when image 1 is, 0.5 for a tie, NaN when the labels are not legal."""
    return _LABELS.get((label_0, label_1), math.nan)


class PickAPicSource:
    """Reads the columns that alignment needs and ignores the others."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every .parquet file of the source's split, sorted; ValueError when there is none."""
        return shards_of(source, store, list_files(source, store, (".parquet",)))

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Read the index at the end of some shards; see `PairSource.inspect`."""
        uris = list_files(source, store, (".parquet",))
        step = -(-len(uris) // INSPECTED_SHARDS)
        counts = [_count_rows(uri, store) for uri in uris[::step]]
        return SourceFacts(
            num_shards=len(uris), num_rows=round(sum(counts) / len(counts) * len(uris)), is_estimate=step > 1
        )

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield rows in SOURCE_SCHEMA, as many at a time as their size allows; memory does not grow with the file."""
        path = shard.local_path()
        with (
            readable(path, shard.name, "parquet"),
            pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            columns = list(dict.fromkeys(_columns(file.schema_arrow, shard.name).values()))
            at_once = rows_to_read(path)
            batches = file.iter_batches(at_once, columns=columns, use_threads=False)
            yield from pick_a_pic_batches(batches, file.schema_arrow, shard.name)


def pick_a_pic_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, name: str) -> Iterator[pa.RecordBatch]:
    """Yield batches of a file with this schema in SOURCE_SCHEMA; ValueError when its columns are not of Pick-a-Pic."""
    columns = _columns(schema, name)
    for batch in batches:
        yield _to_source_schema(batch, columns)


def _count_rows(uri: str, store: Store) -> int:
    """Return the number of rows of a shard; ValueError when its columns are not those of Pick-a-Pic."""
    try:
        with open_in_place(uri, store) as opened, pq.ParquetFile(opened) as file:
            _columns(file.schema_arrow, uri)
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(store.read_range(uri, 0, HEAD_BYTES)[0], uri, "parquet", error) from error


def _columns(schema: pa.Schema, name: str) -> dict[str, str]:
    """Map our column names to those of the file; ValueError names every column that is missing or of the wrong type."""
    expected = {**_REQUIRED, **_OPTIONAL}
    if "caption" not in schema.names and {"caption_0", "caption_1"} <= set(schema.names):
        expected["prompt"] = ("caption_0", "string")
    problems = []
    for ours, (theirs, kind) in expected.items():
        count = schema.names.count(theirs)
        if count > 1:
            problems.append(f"column {theirs!r} is there {count} times")
        elif count and not _holds(schema.field(theirs).type, kind):
            problems.append(f"column {theirs!r} holds {schema.field(theirs).type}, expected {kind}")
        elif not count and ours in _REQUIRED:
            problems.append(missing_column(theirs, schema.names, kind))
    if problems:
        raise layout_error(name, _WHAT, problems, [*Counter(schema.names)])
    return {ours: theirs for ours, (theirs, _) in expected.items() if theirs in schema.names}


def _holds(kind: pa.DataType, expected: str) -> bool:
    """Return True when a column of this type is valid as the expected one; an all-null column is valid as any."""
    kind = plain_type(kind)
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    fits: dict[str, bool] = {
        "string": is_string,
        "binary": any(is_one(kind) for is_one in _BINARY),
        "number": is_number,
        "bool": pa.types.is_boolean(kind),
        "number or string": is_number or is_string,
        "timestamp": pa.types.is_timestamp(kind),
    }
    return fits[expected] or bool(pa.types.is_null(kind))


_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def _to_source_schema(batch: pa.RecordBatch, columns: dict[str, str]) -> pa.RecordBatch:
    arrays = {ours: batch.column(theirs) for ours, theirs in columns.items()}
    rows = batch.num_rows
    refused = np.zeros(rows, dtype=bool)
    for name in _TEXTS:
        if name in arrays:
            arrays[name], bad = _text(name, arrays[name])
            refused |= bad & (name in _TRAINED_TEXTS)
    # A row with a text that cannot be read has no prompt: the rule on prompts sends it to quarantine.
    if refused.any():
        prompts = zip(arrays["prompt"].to_pylist(), refused, strict=True)
        arrays["prompt"] = pa.array([None if bad else text for text, bad in prompts], pa.string())
    for name in arrays.keys() - set(_TEXTS):
        arrays[name] = plain_array(arrays[name])
        arrays[name].validate(full=True)
    labels = _labels(arrays)
    arrays["label_0"], arrays["label_1"] = (pa.array(values, pa.float64()) for values in labels)
    preferences = [_preference_from_labels(a, b) for a, b in zip(*labels, strict=True)]
    arrays["preference"] = pa.array(preferences, pa.float64())
    arrays.setdefault("has_label", pa.array([True] * rows, pa.bool_()))
    nothing = pa.nulls(rows)
    fields = [pc.cast(arrays.get(field.name, nothing), field.type, safe=False) for field in SOURCE_SCHEMA]
    return pa.RecordBatch.from_arrays(fields, schema=SOURCE_SCHEMA)


def _labels(arrays: dict[str, pa.Array]) -> Sequence[list[float | None]]:
    """Return both labels of each row; the second follows from the first where the file has only one."""
    first: list[float | None] = pc.cast(arrays["label_0"], pa.float64(), safe=False).to_pylist()
    if "label_1" in arrays:
        return first, pc.cast(arrays["label_1"], pa.float64(), safe=False).to_pylist()
    return first, [None if label is None else 1 - label for label in first]


def _text(name: str, column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return the text of a column, and a mask of the rows where it is not UTF-8.

    The bytes of such a person's id are kept as escapes, so that this person does not become one without a name.
    """
    texts, bad = text_array(column)
    if name == "user_id" and bad.any():
        values = text_bytes(column)
        escaped = [None if value is None else value.decode("utf-8", "backslashreplace") for value in values]
        texts = pa.array(escaped, pa.string())
    return texts, bad
