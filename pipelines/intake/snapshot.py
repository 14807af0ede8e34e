"""Build a DatasetSnapshot from accepted rows: each pair once, chosen and rejected resolved, split by prompt group."""

import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.data import SPLITS, DatasetSnapshot, Split
from alignment.contracts.values import canonical_json
from alignment.files.images import ground_metadata, parse_ground
from alignment.statistics.normal_text import normal_prompt
from pipelines.contracts.pairs import ValidationReport
from pipelines.contracts.store import Manifest
from pipelines.intake.accepted import accepted_folders, fetch_accepted
from pipelines.intake.pairs import PairWriter, read_batches
from pipelines.intake.row_uses import RowUses, row_uses
from pipelines.intake.scratch import scratch_dir
from pipelines.intake.soft_labels import COMPARED, LABEL_FIELDS, comparison_id, labelled_row, merged_votes
from pipelines.intake.sources.catalogue import find_source
from pipelines.intake.sources.columns import VOTE_FIELDS
from pipelines.intake.split_groups import split_groups
from pipelines.intake.unpaired import UNPAIRED_TABLE_SCHEMA, divided, write_unpaired
from pipelines.intake.withdrawn_rows import rows_where
from pipelines.project.file import Project
from pipelines.project.sections import SnapshotSection
from pipelines.records.heldout_prompts import HeldoutPrompts, heldout_prompts
from pipelines.records.withdrawals import active_withdrawals
from pipelines.store.storage import hash_folder
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

_CONVERTED = ("converted_0", "converted_1")
SNAPSHOT_VERSION = 4
"""Raised when the same accepted rows would now produce another snapshot."""
_LABEL_POLICY = {"labels", "label_threshold"}
_NOT_SPLIT = {"minimum_new_pairs", "sources", *_LABEL_POLICY}


SNAPSHOT_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("caption_chosen", pa.string()),
        pa.field("caption_rejected", pa.string()),
        pa.field("image_chosen", pa.binary()),
        pa.field("image_rejected", pa.binary()),
        pa.field("is_tie", pa.bool_()),
        pa.field("annotator_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("generator_chosen", pa.string()),
        pa.field("generator_rejected", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


def build_snapshot(reports: Sequence[ValidationReport], workspace: Workspace) -> DatasetSnapshot:
    """Join the accepted rows of every passed report into train, calibration and test.parquet under `snapshots/`.

    A pair that came in several batches is used once, and not at all where its annotator contradicts themselves across
    batches. Withdrawn rows are read as if they had never come.
    A prompt's split depends on the normal form of the oldest of its near-duplicates and the seed. So new data moves an
    old prompt only when a new prompt is nearly the same as prompts of two splits.
    Pairs that no person labelled are in train only; those of a prompt in another split are left out.
    Labels are those of the project's policy; a snapshot with votes has the columns LABEL_FIELDS too.
    Likes and dislikes of single images are in a further table, split by the same groups.
    The same rows produce the same bytes, in any order of the reports. ValueError when no training pair remains.
    """
    store = workspace.store
    heldout = heldout_prompts(workspace.project, workspace.store)
    passed = [report for report in reports if report.passed]
    unjudged = sources_without_people(workspace.project)
    withdrawals = active_withdrawals(store)
    files = accepted_folders(store, passed)
    inputs = {
        "version": SNAPSHOT_VERSION,
        "accepted": [[source, digest] for source, digest, _ in files],
        "split": workspace.project.snapshot.model_dump(mode="json", exclude=_NOT_SPLIT),
        "heldout": heldout.digest,
        "ground": workspace.project.validation.ground.lower(),
        **({"withdrawals": [str(own) for own in withdrawals]} if withdrawals else {}),
        **({"without_people": sorted(unjudged)} if unjudged else {}),
        **_label_inputs(workspace.project),
    }
    uri = store.uri("snapshots", hashlib.sha256(canonical_json(inputs).encode()).hexdigest())
    manifest = store.read_manifest(uri)
    if manifest is None:
        batches = tuple(sorted({report.batch_digest for report in passed}))
        folders = [folder for _, _, folder in files]
        with scratch_dir(workspace.settings) as scratch:
            paths = [
                fetch_accepted(store, folder, scratch / str(number), withdrawals)
                for number, folder in enumerate(folders)
            ]
            manifest = _build(sorted(paths, key=_origin), workspace, uri=uri, batches=batches, heldout=heldout)
    return DatasetSnapshot.model_validate(manifest.value)


def _split_of(group: str, section: SnapshotSection) -> Split:
    """Return the split of a prompt group: a hash of seed and group, read as a number in [0, 1)."""
    digest = hashlib.sha256(f"{section.seed}:{group}".encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < section.calibration_share:
        return "calibration"
    return "test" if position < section.calibration_share + section.test_share else "train"


def _split_of_prompt(prompt: str, groups: Mapping[str, str], section: SnapshotSection) -> Split:
    normal = normal_prompt(prompt)
    return _split_of(groups.get(normal, normal), section)


@dataclass
class _Counts:
    num_pairs: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    num_ties: int = 0
    num_soft: int = 0
    num_captioned: int = 0
    groups: "array[int]" = field(default_factory=lambda: array("Q"))
    """The first 64 bits of a digest of the normal prompt of each pair."""
    sources: set[str] = field(default_factory=set)
    licences: set[str] = field(default_factory=set)


def _build(
    paths: Sequence[Path], workspace: Workspace, *, uri: str, batches: tuple[str, ...], heldout: HeldoutPrompts
) -> Manifest:
    with scratch_dir(workspace.settings) as out:
        section = workspace.project.snapshot
        pairs, single = divided(paths)
        groups = split_groups(pairs, single)
        counts = _write_pairs(pairs, out, workspace.project, groups=groups, heldout=heldout)
        num_unpaired = write_unpaired(
            _kept_rows(single, row_uses(single), heldout),
            out,
            split_of=lambda prompt: _split_of_prompt(prompt, groups, section),
            schema=_with_ground(UNPAIRED_TABLE_SCHEMA, single, workspace.project),
        )
        _check_trainable(counts, num_unpaired, num_batches=len(paths))
        digest, files = hash_folder(out)
        snapshot = DatasetSnapshot(
            uri=uri,
            content_digest=digest,
            num_pairs=dict(counts.num_pairs),
            num_ties=counts.num_ties,
            num_soft=counts.num_soft if _has_votes(pairs, section) else None,
            num_unpaired=num_unpaired,
            num_captioned=counts.num_captioned,
            num_prompts=len(np.unique(counts.groups)),
            sources=tuple(sorted(counts.sources)),
            licences=tuple(sorted(counts.licences)),
            batch_digests=batches,
            heldout_prompts_digest=heldout.digest,
        )
        log.info("Snapshot of %d batches: %s pairs", len(paths), counts.num_pairs)
        if counts.num_soft:
            log.warning(
                "%d pairs have a share of votes as label. No objective uses the share yet: training takes the favoured"
                " image as chosen and leaves out the ties.",
                counts.num_soft,
            )
        return workspace.store.publish_folder(out, uri, snapshot.model_dump(mode="json"), hashed=files, move=True)


def _write_pairs(
    paths: Sequence[Path], out: Path, project: Project, *, groups: Mapping[str, str], heldout: HeldoutPrompts
) -> _Counts:
    uses = row_uses(paths)
    rows = _labelled(_kept_rows(paths, uses, heldout), paths, uses, project.snapshot)
    return _write_splits(rows, out, project, groups=groups, schema=_schema(paths, project))


def _check_trainable(counts: _Counts, num_unpaired: Mapping[Split, int] | None, *, num_batches: int) -> None:
    """Raise ValueError when a snapshot has no pair to train on."""
    if counts.num_pairs["train"]:
        return
    num_others = sum(counts.num_pairs.values())
    if num_unpaired and not num_others:
        raise ValueError(
            f"All {sum(num_unpaired.values())} accepted rows are unpaired: likes and dislikes of single images. No"
            " objective can train on these alone. Add a source of pairs; `plumbline sources` lists the kinds."
        )
    raise ValueError(
        f"No pair is left to train on: {num_batches} accepted batches, {num_others} pairs in calibration and test. Run"
        " ingest, inspect the quarantine, or lower calibration_share and test_share in [snapshot]."
    )


def _origin(path: Path) -> tuple[str, str]:
    """Return the source and shard of accepted rows.

    Snapshots are in this order: that of digests would change whenever facts do, and with it the order of training.
    """
    first = next(read_batches(path, ["source", "source_file"]), None)
    return ("", "") if first is None else (first.column("source")[0].as_py(), first.column("source_file")[0].as_py())


def _kept_rows(paths: Sequence[Path], uses: RowUses, heldout: HeldoutPrompts) -> Iterator[dict[str, Any]]:
    """Yield rows of every file in order, without copies, contradictions and held-out prompts."""
    kept = iter(uses.is_first & ~uses.is_contradicted)
    for path in paths:
        for batch in read_batches(path):
            for row in rows_where(batch, list(islice(kept, batch.num_rows)), True).to_pylist():
                if not heldout.holds(row["prompt"]):
                    yield row


def _labelled(
    rows: Iterable[dict[str, Any]], paths: Sequence[Path], uses: RowUses, section: SnapshotSection
) -> Iterator[dict[str, Any]]:
    """Yield the rows with the labels of the policy; one row for each comparison unless labels are hard."""
    if section.labels == "hard":
        for row in rows:
            yield labelled_row(row, section, None)
        return
    compared = zip(_compared_rows(paths), uses.is_contradicted, strict=True)
    votes = merged_votes(row for row, is_contradicted in compared if not is_contradicted)
    for row in rows:
        found = votes.pop(comparison_id(row), None)
        if found is not None:
            yield labelled_row(row, section, found)


def _compared_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        columns = [*COMPARED, *(name for name in pq.read_schema(path).names if name == VOTE_FIELDS[0].name)]
        for batch in read_batches(path, columns):
            yield from batch.to_pylist()


def _has_votes(paths: Sequence[Path], section: SnapshotSection) -> bool:
    """Return True if any source has votes, or several annotators were merged."""
    return section.labels != "hard" or any(VOTE_FIELDS[0].name in pq.read_schema(path).names for path in paths)


def _label_inputs(project: Project) -> dict[str, Any]:
    """Return the policy of labels for the digest; nothing where no other policy would give other labels."""
    section = project.snapshot
    has_votes = any(find_source(source.kind).has_votes for source in project.sources)
    if section.labels == "hard" and not has_votes:
        return {}
    return {"labels": section.model_dump(mode="json", include=_LABEL_POLICY)}


def sources_without_people(project: Project) -> frozenset[str]:
    """Return sources whose labels come from no person: they train, but show nothing about a judge's agreement with
    people.
    """
    return frozenset(s.name for s in project.sources if not find_source(s.kind).labelled_by_people)


def _schema(paths: Sequence[Path], project: Project) -> pa.Schema:
    """Return SNAPSHOT_SCHEMA, with columns of labels where a source has votes or annotators are merged, and with the
    ground in its metadata where an image is not shown as it is stored.
    """
    fields = LABEL_FIELDS if _has_votes(paths, project.snapshot) else ()
    return _with_ground(pa.schema([*SNAPSHOT_SCHEMA, *fields]), paths, project)


def _with_ground(schema: pa.Schema, paths: Sequence[Path], project: Project) -> pa.Schema:
    if not any(_has_converted(path) for path in paths):
        return schema
    return schema.with_metadata(ground_metadata(parse_ground(project.validation.ground)))


def _has_converted(path: Path) -> bool:
    """Return True if an image of the file is not shown as it is stored. Files of earlier versions do not say so."""
    names = [name for name in pq.read_schema(path).names if name in _CONVERTED]
    return any(any(column.to_pylist()) for column in pq.read_table(path, columns=names).columns)


def _write_splits(
    rows: Iterator[dict[str, Any]], out: Path, project: Project, *, groups: Mapping[str, str], schema: pa.Schema
) -> _Counts:
    counts = _Counts()
    without_people = sources_without_people(project)
    with ExitStack() as stack:
        writers = {s: stack.enter_context(PairWriter(out / f"{s}.parquet", schema)) for s in SPLITS}
        for row in rows:
            group = normal_prompt(row["prompt"])
            split = _split_of(groups.get(group, group), project.snapshot)
            if split != "train" and row["source"] in without_people:
                continue
            pair = _resolved_pair(row)
            writers[split].add(pair)
            _count(counts, pair, group=group, split=split)
    return counts


def _count(counts: _Counts, pair: dict[str, Any], *, group: str, split: Split) -> None:
    counts.num_pairs[split] += 1
    counts.num_ties += pair["is_tie"]
    counts.num_soft += pair["preference"] not in (0.5, 1.0)
    captions = {pair["caption_chosen"], pair["caption_rejected"]}
    counts.num_captioned += split == "train" and not pair["is_tie"] and captions != {pair["prompt"]}
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    counts.groups.append(int.from_bytes(digest, "big"))
    counts.sources.add(pair["source"])
    counts.licences.add(pair["licence"])


def _resolved_pair(row: dict[str, Any]) -> dict[str, Any]:
    """Resolve a preference into chosen and rejected; no other code does. A tie keeps the source's order."""
    chosen, rejected = (1, 0) if row["preference"] < 0.5 else (0, 1)
    return {
        "pair_id": row["pair_id"],
        "prompt": row["prompt"],
        "caption_chosen": row[f"caption_{chosen}"] or row["prompt"],
        "caption_rejected": row[f"caption_{rejected}"] or row["prompt"],
        "image_chosen": row[f"image_{chosen}"],
        "image_rejected": row[f"image_{rejected}"],
        "is_tie": row["preference"] == 0.5,
        "annotator_id": row["annotator_id"],
        "source": row["source"],
        "licence": row["licence"],
        "generator_chosen": row[f"generator_{chosen}"],
        "generator_rejected": row[f"generator_{rejected}"],
        "created_at": row["created_at"],
        "preference": max(row["preference"], 1 - row["preference"]),
        "num_votes": row.get("num_votes", 1),
        "weight": row.get("weight", 1.0),
    }
