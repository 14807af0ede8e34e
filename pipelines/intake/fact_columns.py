"""Add facts of the images and the identity of the pair to rows, while the images of the next rows are decoded."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import pyarrow as pa

from pipelines.intake.decoding.pool import DecodingPool, EncodedImage, PendingFacts, shared_pool
from pipelines.intake.image_facts import ImageFacts, decoding_limits
from pipelines.intake.pairs import BYTES_TOGETHER, FACT_FIELDS, ROWS_TOGETHER, is_unpaired, pair_id, pairs_schema
from pipelines.project.sections import ValidationSection

_AHEAD = 2
"""Groups of rows whose images are being decoded while an earlier group is written."""
_KNOWN_IMAGES = 20_000
"""Number of images whose facts are cached within a shard: a ranking of four shows each image in several pairs."""


class _Started(NamedTuple):
    """Rows whose images are being decoded, with the facts of the images of each side."""

    batch: pa.RecordBatch
    sides: tuple[list[PendingFacts], ...]


def with_facts(batches: Iterable[pa.RecordBatch], validation: ValidationSection) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in `pairs_schema`. Every distinct image is decoded once, on every core of the host."""
    decoder = _Decoder(shared_pool(), validation)
    started: deque[_Started] = deque()
    for batch in _together(batches):
        images = ("image_0",) if is_unpaired(batch.schema.names) else ("image_0", "image_1")
        started.append(_Started(batch, tuple(decoder.start(batch.column(name)) for name in images)))
        if len(started) > _AHEAD:
            yield _finished(started.popleft())
    while started:
        yield _finished(started.popleft())


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join small batches, in order."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) >= ROWS_TOGETHER or sum(b.nbytes for b in waiting) >= BYTES_TOGETHER:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class _Decoder:
    """Starts the decoding of images that are not known yet."""

    def __init__(self, pool: DecodingPool, validation: ValidationSection) -> None:
        self._pool = pool
        self._limits = decoding_limits(validation)
        self._known: dict[str, PendingFacts] = {}

    def start(self, images: pa.Array) -> list[PendingFacts]:
        """Return the facts of each image of a column, which are there once its process has answered."""
        encoded = [EncodedImage(data, hashlib.sha256(data).hexdigest()) for data in map(_bytes_of, images)]
        if len(self._known) + len(encoded) > _KNOWN_IMAGES:
            self._known.clear()
        fresh = {image.sha256: image for image in encoded if image.sha256 not in self._known}
        self._known.update(zip(fresh, self._pool.submit(list(fresh.values()), self._limits), strict=True))
        return [self._known[image.sha256] for image in encoded]


def _bytes_of(image: pa.Scalar) -> memoryview:
    """Return the bytes of an image without a copy, no bytes for a null."""
    return memoryview(image.as_buffer() if image.is_valid else b"")


def _finished(started: _Started) -> pa.RecordBatch:
    batch = started.batch
    columns = {name: batch.column(name) for name in batch.schema.names}
    sides = [[pending.result() for pending in side] for side in started.sides]
    for side, facts in enumerate(sides):
        values = zip(*facts, strict=True) if facts else repeat(())
        for field, column in zip(ImageFacts._fields, values, strict=bool(facts)):
            columns[f"{field}_{side}"] = pa.array(column, FACT_FIELDS[field])
    if len(sides) == 1:
        columns |= {f"{field}_1": pa.nulls(batch.num_rows, FACT_FIELDS[field]) for field in ImageFacts._fields}
    columns["pair_id"] = _pair_ids(batch, sides)
    schema = pairs_schema(batch.schema.names)
    return pa.RecordBatch.from_arrays([columns[own.name].cast(own.type) for own in schema], schema=schema)


def _pair_ids(batch: pa.RecordBatch, sides: list[list[ImageFacts]]) -> pa.Array:
    first, *others = [[facts.sha256 for facts in side] for side in sides]
    second = others[0] if others else [None] * batch.num_rows
    people = batch.column("annotator_id").to_pylist()
    rows = zip(first, second, batch.column("prompt").to_pylist(), people, strict=True)
    return pa.array([pair_id(a, b, prompt=prompt or "", annotator_id=who) for a, b, prompt, who in rows], pa.string())
