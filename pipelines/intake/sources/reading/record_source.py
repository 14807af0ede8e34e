"""Base of the kinds whose files are tables of records: list, inspect, and turn each record into pairs."""

import abc
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.columns import UNPAIRED, UNPAIRED_SCHEMA, VOTES_SCHEMA
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.intake.sources.reading.layouts import layout_error, missing_column
from pipelines.intake.sources.reading.records import TABLES, Record, read_records, record_columns, record_facts
from pipelines.intake.sources.reading.splits import list_files, shards_of
from pipelines.intake.sources.reading.url_images import UrlFetcher
from pipelines.intake.sources.reading.votes import Vote, moment
from pipelines.project.sections import SourceSection
from pipelines.store.storage import Store

INSPECTED_SHARDS = 4
"""Shards that are looked at; the number of rows of the others is estimated."""


@dataclass(frozen=True)
class Pair:
    """One comparison, or one judged image, as a record states it. Values of a wrong type become nulls, so that the data
    rules see them.
    """

    prompt: Any
    image_0: Any
    """Bytes, struct, data URI, path or address of the image."""
    image_1: Any
    vote: Vote | None
    """The label; None where nobody voted."""
    annotator: Any = None
    created_at: Any = None
    generators: tuple[Any, Any] = (None, None)
    captions: tuple[Any, Any] = (None, None)
    weight: float = 1.0


class RecordSource(abc.ABC):
    """Reads parquet, CSV, JSON and JSON Lines files. A kind says which columns it needs and what a record means."""

    what: ClassVar[str]
    """The layout in an error, with its article."""
    suffixes: ClassVar[tuple[str, ...]] = TABLES
    schema: ClassVar[pa.Schema] = VOTES_SCHEMA
    """Columns of the rows: VOTES_SCHEMA, or UNPAIRED_SCHEMA for single images."""

    @abc.abstractmethod
    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the columns that a file must have; one of several layouts is enough."""

    @abc.abstractmethod
    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the comparisons of a record."""

    def pairs_of_file(self, records: Iterable[Record], source: SourceSection) -> Iterator[tuple[int, Pair]]:
        """Yield (number of the record, pair) for a whole file; at least one pair for each record, so none is lost."""
        for row, record in enumerate(records):
            found = False
            for pair in self.pairs(record, source):
                found = True
                yield row, pair
            if not found:
                yield row, Pair(record.get("prompt"), None, None, None)

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every table under the source's folder or prefix, or the one file that it names."""
        return shards_of(source, store, list_files(source, store, self.suffixes))

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Look at the columns of some files; see `PairSource.inspect`."""
        uris = list_files(source, store, self.suffixes)
        step = -(-len(uris) // INSPECTED_SHARDS)
        counts = []
        for uri in uris[::step]:
            columns, num_rows = record_facts(uri, store)
            self._check(columns, uri, source)
            counts.append(num_rows)
        return SourceFacts(
            num_shards=len(uris),
            num_rows=round(sum(counts) / len(counts) * len(uris)),
            is_estimate=step > 1,
            is_unpaired=self.schema is UNPAIRED_SCHEMA,
        )

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of one file in `schema`, at most `rows` at a time."""
        path, images = shard.local_path(), image_files(shard)
        self._check(record_columns(path, shard.name), shard.name, shard.source)
        pairs = self.pairs_of_file(read_records(path, shard.name, rows), shard.source)
        yield from pair_batches(pairs, images, rows, schema=self.schema)
        images.report(shard.name)

    def _check(self, columns: list[str], name: str, source: SourceSection) -> None:
        layouts = self.layouts(source)
        if any(set(layout) <= set(columns) for layout in layouts):
            return
        nearest = max(layouts, key=lambda layout: len(set(layout) & set(columns)) / len(layout))
        problems = [missing_column(own, columns) for own in nearest if own not in columns]
        raise layout_error(name, self.what, problems, columns)


def pair_batches(
    pairs: Iterable[tuple[int, Pair]], images: ImageFiles, rows: int, *, schema: pa.Schema = VOTES_SCHEMA
) -> Iterator[pa.RecordBatch]:
    """Yield (row, pair) as batches in `schema`, at most `rows` at a time."""
    waiting: list[dict[str, Any]] = []
    for row, pair in pairs:
        waiting.append({**_row(pair, images), "source_row": row})
        if len(waiting) == rows:
            yield pa.RecordBatch.from_pylist(waiting, schema=schema)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=schema)


def image_files(shard: OpenShard) -> ImageFiles:
    """Return the reader of the images that a shard names: relative to its folder, or a folder of the table's name."""
    folder, _, file = shard.shard.uri.rpartition("/")
    fetcher = UrlFetcher(shard.source.url_hosts, shard.max_image_bytes) if shard.source.fetch_urls else None
    return ImageFiles(
        shard.store, folder, subfolders=(Path(file).stem, "images"), fetch=fetcher.fetch if fetcher else None
    )


def _row(pair: Pair, images: ImageFiles) -> dict[str, Any]:
    share = pair.vote.share if pair.vote else math.nan
    legal = not math.isnan(share)
    return {
        "prompt": _text(pair.prompt),
        "caption_0": _text(pair.captions[0]),
        "caption_1": _text(pair.captions[1]),
        "image_0": images.read(pair.image_0),
        "image_1": images.read(pair.image_1),
        "label_0": share if legal else None,
        "label_1": 1 - share if legal else None,
        "has_label": pair.vote is not None,
        "preference": share,
        "user_id": _text(pair.annotator),
        "created_at": moment(pair.created_at),
        "generator_0": _text(pair.generators[0]),
        "generator_1": _text(pair.generators[1]),
        "num_votes": pair.vote.num_votes if pair.vote else None,
        "weight": pair.weight,
        "kind": UNPAIRED,  # of the schemas, only that of single images has this column
    }


def _text(value: Any) -> str | None:
    """Return text; a number as text without a needless fraction, None for anything else and for lone surrogates."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text) else None
