"""Rows with new labels: sides swapped where the verdict is reversed, everything else unchanged."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.human_labels import read_ballots
from alignment.files.images import ground_metadata, read_ground
from alignment.labelling.labels import Decision
from alignment.labelling.write_labels import write_relabelled


def test_decisions_swap_rows_and_leave_the_other_splits_unchanged(
    tiny_captioned_snapshot_dir: Path, tmp_path: Path
) -> None:
    ballots = read_ballots(tiny_captioned_snapshot_dir, "train")
    turned = [Decision(-1.0 if ballot.chosen_is_first else 1.0, "judge") for ballot in ballots]
    decisions = [None, *turned[1:20], *(Decision(0.0, "judge") for _ in ballots[20:])]
    counts = write_relabelled(tiny_captioned_snapshot_dir, tmp_path, ballots=ballots, decisions=decisions)
    plain = pq.read_table(tiny_captioned_snapshot_dir / "train.parquet")
    table = pq.read_table(tmp_path / "train.parquet")
    assert table.schema == plain.schema
    before, after = plain.to_pylist(), table.to_pylist()
    assert after[0] == before[0]
    for old, new in zip(before[1:20], after[1:20], strict=True):
        for what in ("image", "caption"):
            assert (new[f"{what}_chosen"], new[f"{what}_rejected"]) == (old[f"{what}_rejected"], old[f"{what}_chosen"])
        assert (new["is_tie"], new["annotator_id"], new["pair_id"]) == (False, "judge", old["pair_id"])
    for old, new in zip(before[20:], after[20:], strict=True):
        assert new == {**old, "is_tie": True, "annotator_id": "judge"}
    assert (counts.num_ties, counts.num_captioned) == (10, 19)  # the first pair's captions are its prompt
    for split in ("calibration", "test"):
        assert (tmp_path / f"{split}.parquet").read_bytes() == (
            tiny_captioned_snapshot_dir / f"{split}.parquet"
        ).read_bytes()


def test_a_decision_for_the_chosen_side_changes_nothing(tiny_captioned_snapshot_dir: Path, tmp_path: Path) -> None:
    ballots = read_ballots(tiny_captioned_snapshot_dir, "train")
    decisions = [Decision(1.0 if ballot.chosen_is_first else -1.0, "j") for ballot in ballots]
    write_relabelled(tiny_captioned_snapshot_dir, tmp_path, ballots=ballots, decisions=decisions)
    before = pq.read_table(tiny_captioned_snapshot_dir / "train.parquet").to_pylist()
    after = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert after == [{**row, "is_tie": False, "annotator_id": "j"} for row in before]


def test_the_ground_of_transparent_parts_is_kept(tiny_captioned_snapshot_dir: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(tiny_captioned_snapshot_dir, source)
    out.mkdir()
    table = pq.read_table(source / "train.parquet").replace_schema_metadata(ground_metadata((1, 2, 3)))
    pq.write_table(table, source / "train.parquet")
    ballots = read_ballots(source, "train")
    write_relabelled(source, out, ballots=ballots, decisions=[None] * len(ballots))
    assert read_ground(pq.read_schema(out / "train.parquet").metadata) == (1, 2, 3)


def test_shares_of_votes_do_not_outlive_the_labels_that_they_belong_to(
    tiny_captioned_snapshot_dir: Path, tmp_path: Path
) -> None:
    voted = tmp_path / "voted"
    voted.mkdir()
    for split in ("train", "calibration", "test"):
        table = pq.read_table(tiny_captioned_snapshot_dir / f"{split}.parquet")
        votes = {"preference": pa.array([0.7] * len(table)), "num_votes": pa.array([10] * len(table))}
        for name, column in votes.items():
            table = table.append_column(name, column)
        pq.write_table(table, voted / f"{split}.parquet")
    ballots = read_ballots(voted, "train")
    decisions = [None, Decision(0.0, "judge"), *(Decision(1.0, "judge") for _ in ballots[2:])]
    (tmp_path / "out").mkdir()
    write_relabelled(voted, tmp_path / "out", ballots=ballots, decisions=decisions)
    rows = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert [(row["preference"], row["num_votes"]) for row in rows[:3]] == [(0.7, 10), (0.5, None), (1.0, None)]
