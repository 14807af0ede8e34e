"""Embedding a split: row order, ties left out, stored and read back, damage reported."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alignment.contracts.jobs import JobStoppedError
from alignment.rewards.clip_model import ClipModel
from alignment.training.embeddings import embed_split, num_comparisons, read_embeddings, write_embeddings

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def clip(tiny_clip_dir: Path) -> ClipModel:
    return ClipModel(tiny_clip_dir, torch.device("cpu"))


def test_rows_are_embedded_in_order_without_ties(tiny_snapshot_dir: Path, clip: ClipModel) -> None:
    heard: list[int] = []
    found = embed_split(tiny_snapshot_dir, "train", clip, micro_batch=5, after_batch=heard.append)
    rows = [row for row in pq.read_table(tiny_snapshot_dir / "train.parquet").to_pylist() if not row["is_tie"]]
    assert len(found) == len(rows) == num_comparisons(tiny_snapshot_dir, "train") == 24
    assert heard == [5, 10, 15, 20, 24]
    assert found.annotators == tuple(row["annotator_id"] for row in rows)
    assert found.prompts == tuple(row["prompt"] for row in rows)
    picture = Image.open(io.BytesIO(rows[17]["image_rejected"]))
    torch.testing.assert_close(found.rejected_ND[17:18], clip.embed_images([picture]))
    torch.testing.assert_close(found.prompts_ND[17:18], clip.embed_texts([rows[17]["prompt"]]))
    assert not torch.allclose(found.chosen_ND, found.rejected_ND)


def test_stored_embeddings_are_read_back_and_incomplete_ones_are_not(
    tiny_snapshot_dir: Path, clip: ClipModel, tmp_path: Path
) -> None:
    found = embed_split(tiny_snapshot_dir, "test", clip, micro_batch=8, after_batch=lambda _: None)
    write_embeddings(found, tmp_path, "test")
    again = read_embeddings(tmp_path, "test")
    assert again is not None
    assert (again.annotators, again.prompts) == (found.annotators, found.prompts)
    assert torch.equal(again.chosen_ND, found.chosen_ND)
    (tmp_path / "test.json").unlink()
    assert read_embeddings(tmp_path, "test") is None


def test_a_split_of_ties_is_empty(tiny_snapshot_dir: Path, clip: ClipModel, tmp_path: Path) -> None:
    table = pq.read_table(tiny_snapshot_dir / "test.parquet")
    ties = table.set_column(table.column_names.index("is_tie"), "is_tie", pa.array([True] * len(table)))
    pq.write_table(ties, tmp_path / "test.parquet")
    assert len(embed_split(tmp_path, "test", clip, micro_batch=8, after_batch=lambda _: None)) == 0


def test_missing_and_damaged_files_are_named(tiny_snapshot_dir: Path, clip: ClipModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks train\.parquet"):
        num_comparisons(tmp_path, "train")
    pq.write_table(
        pq.read_table(tiny_snapshot_dir / "train.parquet").drop(["annotator_id"]), tmp_path / "train.parquet"
    )
    with pytest.raises(ValueError, match=r"lacks the column\(s\) annotator_id"):
        embed_split(tmp_path, "train", clip, micro_batch=8, after_batch=lambda _: None)
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(JobStoppedError, match="not a readable parquet file"):
        num_comparisons(tmp_path, "train")
