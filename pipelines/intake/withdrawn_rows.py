"""Find the rows of a pair table that are withdrawn, and write the table without them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.values import canonical_json
from pipelines.contracts.withdrawals import Withdrawal
from pipelines.intake.pairs import PairWriter, read_batches
from pipelines.intake.soft_labels import comparison_id

IDENTITY = ("pair_id", "annotator_id", "prompt", "sha256_0", "sha256_1", "source", "source_file")
"""Columns that a withdrawal may refer to."""
_KINDS = ("annotator", "image", "pair", "source")


class WithheldRows:
    """Leaves withdrawn rows out of a batch, and remembers how many and which withdrawals asked for it."""

    def __init__(
        self, withdrawals: Sequence[Withdrawal], *, num_rows: int = 0, applied: Iterable[Withdrawal] = ()
    ) -> None:
        """`num_rows` and `applied` are those of a batch that lacks rows already."""
        self._withdrawals = withdrawals
        self._applied = {str(own): own for own in applied}
        self.num_rows = num_rows

    def leave_out(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows that are not withdrawn."""
        for batch in batches:
            found = is_withdrawn(batch, self._withdrawals)
            if not any(found):
                yield batch
                continue
            self._applied |= {str(own): own for own in self._withdrawals if any(is_withdrawn(batch, [own]))}
            self.num_rows += sum(found)
            yield rows_where(batch, found, False)

    def applied(self) -> tuple[Withdrawal, ...]:
        """Return the withdrawals that rows were left out for, sorted."""
        return tuple(self._applied[name] for name in sorted(self._applied))

    def key(self, key: str) -> str:
        """Return the name of the batch's folder: the key of the ingest, or another when rows were left out."""
        if not self._applied:
            return key
        return hashlib.sha256(canonical_json([key, *sorted(self._applied)]).encode()).hexdigest()


def is_withdrawn(rows: pa.RecordBatch, withdrawals: Sequence[Withdrawal]) -> list[bool]:
    """Return True for each row that a withdrawal concerns. `rows` has the columns IDENTITY.

    A pair is named by its own identity, or by that of the comparison, which all annotators of its images share.
    """
    if not withdrawals:
        return [False] * rows.num_rows
    people, images, pairs, sources = (
        {own.value for own in withdrawals if own.kind == kind and not own.shard} for kind in _KINDS
    )
    shards = {(own.value, own.shard) for own in withdrawals if own.shard}
    light = rows.select(list(IDENTITY)).to_pylist()
    return [
        row["annotator_id"] in people
        or row["sha256_0"] in images
        or row["sha256_1"] in images
        or row["pair_id"] in pairs
        or row["source"] in sources
        or (row["source"], row["source_file"]) in shards
        or (bool(pairs) and comparison_id(row) in pairs)
        for row in light
    ]


def rows_where(batch: pa.RecordBatch, found: Sequence[bool], wanted: bool) -> pa.RecordBatch:
    """Return the rows for which `found` is `wanted`."""
    return batch.filter(pa.array([bool(own) is wanted for own in found], pa.bool_()))


def withdrawn_pairs(path: Path, withdrawals: Sequence[Withdrawal]) -> dict[str, str]:
    """Map the pair_id of every withdrawn row of a pair table to the identity of its comparison."""
    found: dict[str, str] = {}
    for batch in read_batches(path, list(IDENTITY)) if withdrawals else ():
        for row in rows_where(batch, is_withdrawn(batch, withdrawals), True).to_pylist():
            found[row["pair_id"]] = comparison_id(row)
    return found


def without_withdrawn(path: Path, withdrawals: Sequence[Withdrawal], scratch: Path) -> Path:
    """Return the table itself when no row of it is withdrawn, else a copy in `scratch` of the other rows."""
    light = read_batches(path, list(IDENTITY)) if withdrawals else ()
    if not any(any(is_withdrawn(batch, withdrawals)) for batch in light):
        return path
    copy = scratch / f"kept-{path.name}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    with PairWriter(copy, pq.read_schema(path)) as writer:
        for batch in read_batches(path):
            writer.write(rows_where(batch, is_withdrawn(batch, withdrawals), False))
    return copy
