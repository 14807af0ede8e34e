"""Read a data set of the Hugging Face Hub at a pinned revision, or a local copy, through the library `datasets`.

Rows are streamed: nothing but what is read is fetched, and no data set is stored on this host. The layout is the one
that the columns fit, or that of `[sources.columns]`. Loading scripts are not run.
"""

import hashlib
import importlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from alignment.catalogues.lookup import resolve
from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.catalogue import Likes, PickAPic, Table, find_source
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.pick_a_pic import pick_a_pic_batches
from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.intake.sources.reading.layouts import fitting_kinds, layout_error
from pipelines.intake.sources.reading.record_source import RecordSource, pair_batches
from pipelines.intake.sources.reading.texts import batch_rows
from pipelines.project.sections import SourceSection
from pipelines.store.disk import local_path
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store

_HUB = re.compile(r"hub://(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
_EXPLICIT = ("label_studio", "argilla")
"""Kinds that a data set of records cannot be read as without the project's columns."""


class HuggingfaceSource:
    """A shard is one of the files of a split."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List the files of the split; ValueError for a revision that is not pinned or cannot be reached."""
        with _opened(source) as data_set:
            count = data_set.num_shards
        version, root = _version(source, store), source.uri.rstrip("/")
        return tuple(
            SourceShard(source=source.name, uri=f"{root}/{number:05d}-of-{count:05d}", num_bytes=0, fingerprint=version)
            for number in range(count)
        )

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Look at the columns; the number of rows is 0 where the data set does not state it."""
        with _opened(source) as data_set:
            kind = _kind(list(data_set.features or ()), source)
            split = (data_set.info.splits or {}).get(str(data_set.split))
            stated = split.num_examples if split else None
            return SourceFacts(
                num_shards=data_set.num_shards,
                num_rows=stated or 0,
                is_estimate=stated is None,
                is_unpaired=kind == Likes.model_fields["kind"].default,
            )

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Stream the rows of one file, in the schema of their layout."""
        number, count = map(int, shard.shard.uri.rpartition("/")[2].split("-of-"))
        with _opened(shard.source) as data_set:
            part = data_set.shard(num_shards=count, index=number).with_format("arrow")
            batches = (batch for table in part.iter(rows) for batch in table.to_batches(max_chunksize=rows))
            yield from _in_layout(_or_fault(batches, shard.source), shard, rows)


def _in_layout(batches: Iterator[pa.RecordBatch], shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
    first = next(batches, None)
    if first is None:
        return
    kind = _kind(first.schema.names, shard.source)
    whole = _chained(first, batches)
    if kind == PickAPic.model_fields["kind"].default:
        yield from pick_a_pic_batches(whole, first.schema, shard.name)
        return
    reader: RecordSource = resolve(find_source(kind).implementation)()
    # Files beside the data set are read only where it is a folder of this host.
    folder = shard.source.uri if _HUB.fullmatch(shard.source.uri) is None else str(shard.scratch)
    images = ImageFiles(shard.store, folder)
    records = (record for batch in whole for record in batch_rows(batch))
    yield from pair_batches(reader.pairs_of_file(records, shard.source), images, rows, schema=reader.schema)
    images.report(shard.name)


def _kind(columns: list[str], source: SourceSection) -> str:
    """Return the kind whose layout the columns have; `table` or `likes` where the project names them."""
    if source.columns is not None:
        missing = [f"no column {name!r}" for name in source.columns.named() if name not in columns]
        if missing:
            raise layout_error(f"Source {source.name!r}", "the table of [sources.columns]", missing, columns)
        named = Likes if source.columns.image else Table
        return str(named.model_fields["kind"].default)
    kinds = [kind for kind in fitting_kinds(columns) if kind not in _EXPLICIT]
    if not kinds:
        raise layout_error(f"Source {source.name!r}", "of a known layout", ["name its columns"], columns)
    return kinds[0]


def _chained(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


@contextmanager
def _opened(source: SourceSection) -> Iterator[Any]:
    """Open the split as a stream; its few files of metadata are fetched to a temporary folder."""
    with tempfile.TemporaryDirectory() as cache:
        yield _streamed(source, cache)


def _streamed(source: SourceSection, cache: str) -> Any:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f"Source {source.name!r} of kind 'huggingface' needs the library datasets: pip install datasets."
        ) from error
    path, revision = _place(source)
    try:
        builder = datasets.load_dataset_builder(path, revision=revision, cache_dir=cache)
        splits = [str(split) for split in builder.config.data_files or builder.info.splits or ()]
    except Exception as error:  # The library raises the errors of its HTTP client and of each file format.
        raise _unreadable(source, error) from error
    split = _split(source, splits)
    try:
        return builder.as_streaming_dataset(split=split)
    except Exception as error:  # As above.
        raise _unreadable(source, error) from error


def _split(source: SourceSection, splits: list[str]) -> str:
    known = ", ".join(sorted(splits)) or "none"
    if source.split:
        if source.split not in splits:
            raise ValueError(f"Source {source.name!r} has no split {source.split!r}. Its data set has: {known}.")
        return source.split
    if len(splits) != 1:
        raise ValueError(f'Source {source.name!r} has several splits: {known}. Name one, e.g. split = "train".')
    return splits[0]


def _place(source: SourceSection) -> tuple[str, str | None]:
    """Return the name on the hub with its revision, or the local folder without one."""
    pinned = _HUB.fullmatch(source.uri)
    if pinned is not None:
        return pinned["name"], pinned["revision"]
    if "://" in source.uri and not source.uri.startswith("file://"):
        raise ValueError(
            f"Source {source.name!r}: {source.uri!r} is not a pinned data set. Write hub://OWNER/NAME@REVISION with the"
            " 40 hex digits of a commit, or a local folder."
        )
    folder = local_path(normal_uri(source.uri))
    if not folder.is_dir():
        raise ValueError(f"Source {source.name!r}: folder {folder} does not exist. Check `uri` in the project file.")
    return str(folder), None


def _version(source: SourceSection, store: Store) -> str:
    """Return the revision and split, or a digest of a local folder's files."""
    pinned = _HUB.fullmatch(source.uri)
    if pinned is not None:
        return f"{pinned['revision']} {source.split}".strip()
    files = [(uri.rpartition("/")[2], *store.stat(uri)) for uri in store.list_uris(source.uri)]
    return hashlib.sha256(canonical_json([source.split, files]).encode()).hexdigest()


def _or_fault(batches: Iterable[pa.RecordBatch], source: SourceSection) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except Exception as error:  # As above.
        raise _unreadable(source, error) from error


def _unreadable(source: SourceSection, error: Exception) -> ValueError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ValueError(
        f"Source {source.name!r}: {source.uri} cannot be read: {reason}. Check the name, the revision, the network and"
        " HF_TOKEN; or download the files and name their folder."
    )
