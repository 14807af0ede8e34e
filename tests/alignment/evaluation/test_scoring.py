"""Scoring of grids and calibration pairs, with a scorer of known outputs."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alignment.evaluation.sampling import image_grid
from alignment.evaluation.scoring import (
    ScoreRow,
    Shuffle,
    calibration_pairs,
    num_calibration_pairs,
    read_image,
    score_calibration,
    score_prompts,
    score_samples,
)
from alignment.files.images import ground_metadata
from alignment.statistics.prompts import EvalPrompt


class Brightness:
    """A scorer: mean red value plus number of letters of the prompt; it records the size of each batch."""

    digest = "d"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> torch.Tensor:
        self.batches.append(len(images_B))
        return torch.tensor([np.asarray(i)[..., 0].mean() + len(p) for i, p in zip(images_B, prompts, strict=True)])


def png(red: int, *, spot: bool = True) -> bytes:
    image = Image.new("RGB", (8, 8), (red, 0, 0))
    if spot:
        image.putpixel((0, 0), (red, 255, 0))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_image_is_scored_with_its_own_prompt_by_every_scorer(tmp_path: Path) -> None:
    grid = image_grid([EvalPrompt(0, "a", ""), EvalPrompt(1, "abc", "")], (5, 6))
    folders = {name: tmp_path / name for name in ("m1", "m2")}
    for base, folder in zip((10, 100), folders.values(), strict=True):
        folder.mkdir()
        for offset, key in enumerate(grid):
            (folder / key.file_name).write_bytes(png(base + offset))
    scorers = {"first": Brightness(), "second": Brightness()}
    done: list[int] = []
    rows, blank = score_samples(scorers, folders, grid, micro_batch=4, after_batch=done.append)
    assert blank == []
    assert done == [2, 4]
    assert scorers["first"].batches == [4, 4]
    found = {(r.sample_digest, r.scorer, r.prompt_index, r.seed): r.score for r in rows}
    assert len(found) == len(rows) == 16
    assert found["m1", "first", 0, 5] == 10 + 1
    assert found["m1", "second", 1, 6] == 13 + 3
    assert found["m2", "first", 1, 5] == 102 + 3


def test_seeds_of_a_prompt_are_scored_together_model_by_model(tmp_path: Path) -> None:
    grid = image_grid([EvalPrompt(0, "a", ""), EvalPrompt(1, "abc", "")], (5, 6, 7))
    for name in ("m1", "m2"):
        (tmp_path / name).mkdir()
        for key in grid:
            (tmp_path / name / key.file_name).write_bytes(png(10 + key.seed))
    scorer = Brightness()
    folders = {name: tmp_path / name for name in ("m1", "m2")}
    rows = score_prompts({"d": scorer}, folders, grid)
    assert scorer.batches == [3, 3, 3, 3]
    assert {(r.sample_digest, r.prompt_index, r.seed): r.score for r in rows}["m2", 1, 7] == 17 + 3
    assert len(rows) == 12


def test_blank_and_unreadable_images_are_named(tmp_path: Path) -> None:
    grid = image_grid([EvalPrompt(0, "a", "")], (0, 1))
    (tmp_path / grid[0].file_name).write_bytes(png(7, spot=False))
    (tmp_path / grid[1].file_name).write_bytes(png(7))
    _, blank = score_samples({}, {"m": tmp_path}, grid, micro_batch=1)
    assert blank == ["m/00000_0.png"]
    (tmp_path / grid[1].file_name).write_bytes(png(7)[:40])
    with pytest.raises(ValueError, match=r"00000_1\.png cannot be decoded"):
        read_image(tmp_path / grid[1].file_name)
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(tmp_path / "absent.png")


@pytest.fixture
def snapshot_dir(tmp_path: Path) -> Path:
    columns = {
        "pair_id": [f"p{i}" for i in range(5)],
        "prompt": ["x" * i for i in range(5)],
        "image_chosen": [png(100 + i) for i in range(5)],
        "image_rejected": [png(50 - i) for i in range(5)],
        "is_tie": [i == 3 for i in range(5)],
        "source": ["s"] * 5,
    }
    pq.write_table(pa.table(columns), tmp_path / "calibration.parquet")
    return tmp_path


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_ranks_divide_the_calibration_pairs(snapshot_dir: Path, ranks: int) -> None:
    rows = [
        row
        for rank in range(ranks)
        for row in score_calibration(
            {"j": Brightness()}, calibration_pairs(snapshot_dir, rank=rank, world_size=ranks), micro_batch=4
        )
    ]
    assert num_calibration_pairs(snapshot_dir) == 5
    by_id = {row.pair_id: row for row in rows}
    assert len(by_id) == len(rows) == 5
    assert (by_id["p3"].score_chosen, by_id["p3"].score_rejected) == (103 + 3, 47 + 3)
    assert [row.is_tie for row in sorted(rows)] == [False, False, False, True, False]


def test_judges_see_transparent_parts_on_the_ground_of_the_snapshot(snapshot_dir: Path) -> None:
    path = snapshot_dir / "calibration.parquet"
    stream = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(stream, "PNG")
    table = pq.read_table(path).set_column(2, "image_chosen", pa.array([stream.getvalue()] * 5))
    pq.write_table(table.replace_schema_metadata(ground_metadata((9, 8, 7))), path)
    pair = next(calibration_pairs(snapshot_dir, rank=0, world_size=1))
    assert pair.chosen.getpixel((0, 0)) == (9, 8, 7)


def test_a_broken_snapshot_is_reported(snapshot_dir: Path, tmp_path: Path) -> None:
    path = snapshot_dir / "calibration.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["is_tie"]), path)
    with pytest.raises(ValueError, match="lacks the columns is_tie"):
        next(calibration_pairs(snapshot_dir, rank=0, world_size=1))
    broken = table.set_column(2, "image_chosen", pa.array([b"no image"] * 5))
    pq.write_table(broken, path)
    with pytest.raises(ValueError, match="The image of pair p0 cannot be decoded"):
        next(calibration_pairs(snapshot_dir, rank=0, world_size=1))
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        num_calibration_pairs(snapshot_dir)
    with pytest.raises(ValueError, match="cannot be read"):
        num_calibration_pairs(tmp_path / "nowhere")


class _PromptLength:
    """A scorer that looks at the prompt only."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])


def test_only_the_shuffled_models_and_seed_are_scored_against_other_prompts(tmp_path: Path) -> None:
    prompts = [EvalPrompt(0, "aa", ""), EvalPrompt(1, "bbbb", "")]
    grid = image_grid(prompts, (0, 1))
    folders = {"m": tmp_path / "m", "n": tmp_path / "n"}
    for folder in folders.values():
        folder.mkdir()
        for key in grid:
            Image.new("RGB", (8, 8), "red").save(folder / key.file_name)
    shuffle = Shuffle(prompts={0: "bbbb", 1: "aa"}, seed=1, folders=frozenset({"m"}), scorers=frozenset({"j"}))
    scorers = {"j": _PromptLength(), "guard": _PromptLength()}
    rows, _ = score_samples(scorers, folders, grid, micro_batch=4, shuffle=shuffle)  # type: ignore[arg-type]
    assert len(rows) == 2 * 2 * 4 + 2
    assert [row for row in rows if row.shuffled] == [
        ScoreRow("m", "j", 0, 1, 4.0, shuffled=True),
        ScoreRow("m", "j", 1, 1, 2.0, shuffled=True),
    ]
