"""Write a snapshot with new labels on its training pairs; calibration and test splits keep the human labels."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.human_labels import READ_ROWS, Ballot
from alignment.labelling.labels import Decision

IMAGE_COLUMNS = ("image_chosen", "image_rejected")


@dataclass(frozen=True)
class _TrainCounts:
    """Digest of the training split as written."""

    num_ties: int
    num_captioned: int
    """Number of pairs, without ties, with an image whose caption differs from the prompt."""


def write_relabelled(
    snapshot_dir: Path, out: Path, *, ballots: Sequence[Ballot], decisions: Sequence[Decision | None]
) -> _TrainCounts:
    """Write train.parquet with the decisions, row by row, and copy the other splits unchanged.

    Where the verdict is reversed, images and captions change sides. pair_id stays that of the row, so that a label can
    be traced to the human label of the same pair; annotator_id names the new labeler. A pair without a label is a tie:
    no objective trains on one, and prompts and counts stay those of the original snapshot.
    """
    for split in ("calibration", "test"):
        shutil.copyfile(snapshot_dir / f"{split}.parquet", out / f"{split}.parquet")
    num_ties = num_captioned = first = 0
    with pq.ParquetFile(snapshot_dir / "train.parquet") as file:
        schema = file.schema_arrow
        plain = [name for name in schema.names if name not in IMAGE_COLUMNS]
        compression = {name: "zstd" if name in plain else "none" for name in schema.names}
        with pq.ParquetWriter(
            out / "train.parquet", schema, compression=compression, use_dictionary=plain, write_statistics=plain
        ) as writer:
            for batch in file.iter_batches(READ_ROWS):
                rows = [
                    _relabelled_row(row, ballots[index], decisions[index])
                    for index, row in enumerate(batch.to_pylist(), start=first)
                ]
                first += len(rows)
                num_ties += sum(row["is_tie"] for row in rows)
                num_captioned += sum(_is_captioned(row) for row in rows)
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    assert first == len(ballots) == len(decisions)
    return _TrainCounts(num_ties, num_captioned)


def _relabelled_row(row: dict[str, Any], ballot: Ballot, decision: Decision | None) -> dict[str, Any]:
    """Apply a decision to one row; None leaves the row unchanged."""
    if decision is None:
        return row
    turned = decision.preference != 0 and (decision.preference > 0) != ballot.chosen_is_first
    sides = {
        f"{what}_{side}": row[f"{what}_{other if turned else side}"]
        for what in ("image", "caption", "generator")
        if f"{what}_chosen" in row
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
    }
    # The shares of people's votes, where a snapshot has them, say nothing about the new label.
    votes = {"preference": 0.5 if decision.preference == 0 else 1.0, "num_votes": None} if "num_votes" in row else {}
    return {**row, **sides, **votes, "is_tie": decision.preference == 0, "annotator_id": decision.labeler}


def _is_captioned(row: dict[str, Any]) -> bool:
    return not row["is_tie"] and {row["caption_chosen"], row["caption_rejected"]} != {row["prompt"]}
