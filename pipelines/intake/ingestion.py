"""Fetch a source as immutable batches: one shard becomes pairs.parquet, in our columns, with facts."""

import hashlib
import hmac
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from urllib.parse import unquote

import pyarrow as pa

from alignment.catalogues.lookup import resolve, unknown_name
from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import RawBatch, SourceFacts, SourceShard
from pipelines.contracts.withdrawals import WithheldBatch
from pipelines.intake.fact_columns import with_facts
from pipelines.intake.pairs import PAIRS_FILE, PAIRS_SCHEMA, ROWS_AT_ONCE, PairWriter
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.sources.catalogue import SOURCES, find_source
from pipelines.intake.sources.interface import OpenShard, PairSource
from pipelines.intake.sources.reading.layouts import LayoutError
from pipelines.intake.withdrawn_rows import WithheldRows
from pipelines.project.file import Project
from pipelines.project.sections import SourceSection
from pipelines.records.withdrawals import active_withdrawals, read_listing, read_withheld, save_listing, save_withheld
from pipelines.settings import ANNOTATOR_SALT, Settings
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store, hash_folder
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

INGEST_VERSION = 3
"""Raised when the same shard would now produce other columns or facts."""
DECODING_LIMITS = frozenset(
    {
        "max_image_bytes",
        "max_image_pixels",
        "max_image_side",
        "max_decode_seconds",
        "allowed_formats",
        "ground",
    }
)
"""Fields of [validation] that decide which images are decoded and how, and therefore which facts a batch contains."""
_READING = {"columns", "fetch_urls", "url_hosts"}
"""Fields of a source that change what is read from a shard."""
_NAMED = 10
"""Number of shards that a message names."""


def list_source_shards(workspace: Workspace) -> list[SourceShard]:
    """List every shard of every source of the project, in the project file's order, then by URI.

    ValueError when a source cannot be read, or none has pairs.
    """
    store, sources = workspace.store, workspace.project.sources
    found = [shard for source in sources for shard in _reader(source).list_shards(source, store)]
    if not found:
        names = ", ".join(source.name for source in sources)
        raise ValueError(f"{workspace.project.path}: no source has pairs to train on yet ({names}).")
    return found


def note_shards(shards: Sequence[SourceShard], workspace: Workspace) -> None:
    """Record which shards each source of the project has now, so that those that it lost leave the next snapshot."""
    for source in workspace.project.sources:
        names = sorted(_shard_name(shard, source) for shard in shards if shard.source == source.name)
        before = read_listing(workspace.store, workspace.project.name, source.name)
        gone = sorted({*before} - {*names}) if before else []
        if gone:
            fate = "leave the next snapshot" if source.on_removed == "withdraw" else "stay, as on_removed says"
            named = ", ".join(gone[:_NAMED]) + (f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else "")
            log.warning("%s no longer has %d of its shards: %s. Their pairs %s.", source.name, len(gone), named, fate)
        save_listing(workspace.store, workspace.project.name, source.name, names)


def inspect_sources(workspace: Workspace) -> dict[str, SourceFacts | str | None]:
    """Return the facts of each source by name, or the fault of one that cannot be read as its kind.

    The facts of a self_generated source are None until its pairs are drawn.
    """
    found: dict[str, SourceFacts | str | None] = {}
    for source in workspace.project.sources:
        try:
            drawn = source.draw is None or bool(source.uri)
            found[source.name] = _reader(source).inspect(source, workspace.store) if drawn else None
        except (ValueError, OSError, RuntimeError) as error:
            found[source.name] = str(error)
    return found


def recognise(uri: str, store: Store) -> tuple[str, SourceFacts]:
    """Return the kind of the pairs in a folder or under a prefix, by their columns, and their facts.

    ValueError when they are of none: with the columns if a file could be read, else with the first reason.
    """
    reasons: list[ValueError] = []
    for cls in SOURCES:
        kind = str(cls.model_fields["kind"].default)
        if not cls.labelled_by_people or not (cls.layouts or kind == "folder"):
            continue
        try:
            source = SourceSection(name="pairs", kind=kind, uri=uri, licence="")
            return kind, _reader(source).inspect(source, store)
        except ValueError as error:
            reasons.append(error)
    raise next((reason for reason in reasons if isinstance(reason, LayoutError)), reasons[0])


def ingest(shard: SourceShard, workspace: Workspace) -> RawBatch:
    """Read one shard into an immutable batch under `raw/`; a shard that was ingested before returns the first batch.

    Every row is kept unchanged, good or bad: validation decides which rows pass. Annotators become keyed hashes here.
    Raises ValueError when the shard is missing, cut off or lacks a column, or the store cannot be written.
    """
    settings = workspace.settings
    source = _source(workspace.project, shard)
    if not settings.annotator_salt.get_secret_value():
        log.warning(
            "%s is not set: anyone who knows a user id can find out which pairs that person labelled.", ANNOTATOR_SALT
        )
    store = workspace.store
    name = _shard_name(shard, source)
    inputs = {
        "version": INGEST_VERSION,
        "shard": [source.name, name, shard.num_bytes, shard.fingerprint],
        "kind": source.kind,
        "licence": source.licence,
        "annotators": annotator_id("", settings) if settings.annotator_salt.get_secret_value() else "",
        "limits": workspace.project.validation.model_dump(mode="json", include=set(DECODING_LIMITS)),
    }
    options = source.model_dump(mode="json", include=_READING, exclude_defaults=True)
    inputs |= {"reading": options} if options else {}
    key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
    finished = find_batch(key, store)
    if finished is not None:
        return finished
    with scratch_dir(settings) as scratch:
        limit = workspace.project.validation.max_image_bytes
        opened = OpenShard(shard, name, source, store, scratch, max_image_bytes=limit)
        rows = _reader(source).read_shard(opened, ROWS_AT_ONCE)
        batches = (_in_our_columns(batch, source, first, name=name, settings=settings) for first, batch in _count(rows))
        return publish_batch(key, batches, source=source.name, name=name, workspace=workspace)


def find_batch(key: str, store: Store) -> RawBatch | None:
    """Return the finished batch of an ingest; None when there is none, or rows that it lacks may be used again."""
    manifest = store.read_manifest(store.uri("raw", key))
    if manifest is None:
        withheld = read_withheld(store, key)
        if withheld is not None and not {*map(str, withheld.withdrawals)} - {*map(str, active_withdrawals(store))}:
            manifest = store.read_manifest(withheld.uri)
    return None if manifest is None else RawBatch.model_validate(manifest.value)


def publish_batch(
    key: str, batches: Iterable[pa.RecordBatch], *, source: str, name: str, workspace: Workspace
) -> RawBatch:
    """Compute facts and identity of the rows, write pairs.parquet and publish it as a raw batch.

    The rows have the columns of `pairs_schema`; pair_id and facts may be missing, since they are always recomputed.
    Withdrawn rows are left out, and counted.
    """
    withheld = WithheldRows(active_withdrawals(workspace.store))
    tables = withheld.leave_out(with_facts(batches, workspace.project.validation))
    return write_batch(key, tables, withheld, source=source, name=name, workspace=workspace)


def write_batch(
    key: str,
    tables: Iterator[pa.RecordBatch],
    withheld: WithheldRows,
    *,
    source: str,
    name: str,
    workspace: Workspace,
) -> RawBatch:
    """Write rows with their facts as the batch of an ingest. One with rows left out gets a separate folder."""
    store, num_rows = workspace.store, 0
    with scratch_dir(workspace.settings) as folder:
        first = next(tables, None)
        with PairWriter(folder / PAIRS_FILE, PAIRS_SCHEMA if first is None else first.schema) as writer:
            for batch in chain([] if first is None else [first], tables):
                writer.write(batch)
                num_rows += batch.num_rows
        digest, files = hash_folder(folder)
        uri = store.uri("raw", withheld.key(key))
        raw = RawBatch(
            uri=uri,
            content_digest=digest,
            source=source,
            source_file=name,
            num_rows=num_rows,
            num_withdrawn=withheld.num_rows,
        )
        manifest = store.publish_folder(folder, uri, raw.model_dump(mode="json"), hashed=files, move=True)
    if applied := withheld.applied():
        save_withheld(store, key, WithheldBatch(uri=uri, withdrawals=applied))
    log.info("Ingested %s of %s: %d rows, %d withdrawn", name, source, num_rows, withheld.num_rows)
    return RawBatch.model_validate(manifest.value)


def _reader(source: SourceSection) -> PairSource:
    reader: PairSource = resolve(find_source(source.kind).implementation)()
    return reader


def _source(project: Project, shard: SourceShard) -> SourceSection:
    for source in project.sources:
        if source.name == shard.source:
            return source
    raise ValueError(unknown_name("source", shard.source, [source.name for source in project.sources]))


def _shard_name(shard: SourceShard, source: SourceSection) -> str:
    """Return the shard's path relative to its source, so that a batch is the same wherever the source is stored."""
    local = "://" not in source.uri or source.uri.startswith(("file://", "s3://"))
    root = normal_uri(source.uri) if local else source.uri.rstrip("/")
    path = shard.uri.removeprefix(f"{root}/") if shard.uri.startswith(f"{root}/") else shard.uri.rpartition("/")[2]
    return unquote(path) if root.startswith("file://") else path


def annotator_id(user_id: str | None, settings: Settings) -> str:
    """Return a keyed hash that identifies a person, 32 hexadecimal digits; empty where the row names no annotator."""
    if user_id is None:
        return ""
    key = settings.annotator_salt.get_secret_value().encode()
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:32]


def _count(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield each batch with the number of its first row in the file."""
    first = 0
    for batch in batches:
        yield first, batch
        first += batch.num_rows


def _in_our_columns(
    batch: pa.RecordBatch, source: SourceSection, first_row: int, *, name: str, settings: Settings
) -> pa.RecordBatch:
    """Yield rows of the source's schema with provenance added and annotators replaced by hashes."""
    rows = batch.num_rows
    columns = {field: batch.column(field) for field in batch.schema.names if field != "user_id"}
    users = batch.column("user_id").to_pylist()
    if find_source(source.kind).labelled_by_people:
        ids = {user: annotator_id(user, settings) for user in set(users)}
        users = [ids[user] for user in users]
    columns["annotator_id"] = pa.array([user or "" for user in users], pa.string())
    columns["source"] = pa.repeat(source.name, rows)
    columns["licence"] = pa.repeat(source.licence, rows)
    columns["source_file"] = pa.repeat(name, rows)
    columns.setdefault("source_row", pa.array(range(first_row, first_row + rows), pa.int64()))
    return pa.RecordBatch.from_pydict(columns)
