"""The committed pairs: their schema, their labels, and each planted kind of fault."""

import io
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Load = Callable[[str], ModuleType]
Row = dict[str, object]


@pytest.fixture(scope="module")
def make_pairs(shapes_module: Load) -> ModuleType:
    return shapes_module("make_pairs")


@pytest.fixture(scope="module")
def world(shapes_module: Load) -> ModuleType:
    return shapes_module("world")


@pytest.fixture(scope="module")
def rows(shapes_dir: Path) -> list[Row]:
    tables = [pq.read_table(shard) for shard in sorted((shapes_dir / "pairs").glob("*.parquet"))]
    return list(pa.concat_tables(tables).to_pylist())


def _decodes(data: object) -> bool:
    assert isinstance(data, bytes)
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def _content(row: Row, *, with_label: bool) -> tuple[object, ...]:
    fields = ("caption", "jpg_0", "jpg_1", "user_id") + (("label_0", "label_1") if with_label else ())
    return tuple(row[field] for field in fields)


def test_three_shards_in_the_pick_a_pic_schema(shapes_dir: Path, make_pairs: ModuleType) -> None:
    shards = sorted((shapes_dir / "pairs").iterdir())
    assert [shard.name for shard in shards] == [f"train-0000{k}-of-00003.parquet" for k in range(3)]
    assert sum(shard.stat().st_size for shard in shards) < 6_000_000
    for shard in shards:
        assert pq.read_schema(shard).equals(make_pairs.SCHEMA)


def test_most_rows_are_good(rows: list[Row], world: ModuleType) -> None:
    training = set(world.training_prompts())
    good = [
        row
        for row in rows
        if row["caption"] in training
        and (row["label_0"], row["label_1"]) in {(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)}
        and _decodes(row["jpg_0"])
        and _decodes(row["jpg_1"])
    ]
    assert 590 <= len(good) <= len(rows) - 8
    ties = sum(row["label_0"] == 0.5 for row in good) / len(good)
    assert 0.05 < ties < 0.20
    left = sum(row["label_0"] == 1.0 for row in good) / len(good)
    assert 0.36 < left < 0.54
    assert len({row["user_id"] for row in good}) == 12
    for row in good[:20]:
        with Image.open(io.BytesIO(bytes(row["jpg_0"]))) as image:  # type: ignore[arg-type]
            assert image.size == (64, 64)


def test_the_annotators_mostly_agree_with_the_oracle(rows: list[Row], world: ModuleType) -> None:
    training = set(world.training_prompts())
    agreed = []
    for row in rows:
        prompt = str(row["caption"])
        if prompt not in training or {row["label_0"], row["label_1"]} != {0.0, 1.0}:
            continue
        if not (_decodes(row["jpg_0"]) and _decodes(row["jpg_1"])):
            continue
        scores = []
        for name in ("jpg_0", "jpg_1"):
            with Image.open(io.BytesIO(bytes(row[name]))) as image:  # type: ignore[arg-type, call-overload]
                scores.append(world.oracle_score(np.asarray(image.convert("RGB")), prompt))
        agreed.append((scores[0] > scores[1]) == (row["label_0"] == 1.0))
    assert 0.75 < np.mean(agreed) < 0.97


def test_each_kind_of_dirt_is_in_the_shards(rows: list[Row], world: ModuleType) -> None:
    pngs = [row for row in rows if not _decodes(row["jpg_0"])]
    assert any(bytes(row["jpg_0"]).startswith(b"\x89PNG") for row in pngs), "truncated image"  # type: ignore[arg-type]
    assert any(row["jpg_1"] == b"this is no picture" for row in rows), "undecodable image"
    assert any(row["jpg_1"] == b"" for row in rows), "empty image"
    captions = [str(row["caption"]) for row in rows]
    assert "" in captions
    assert "   " in captions
    assert max(len(caption) for caption in captions) > 5000
    assert set(captions) & set(world.heldout_prompts())
    labels = {(row["label_0"], row["label_1"]) for row in rows}
    assert (1.0, 1.0) in labels
    assert (0.7, 0.3) in labels
    assert any(row["jpg_0"] == row["jpg_1"] and row["label_0"] == 1.0 for row in rows), "identical images"
    twice = Counter(_content(row, with_label=True) for row in rows)
    assert max(twice.values()) == 2, "exact duplicate"
    legal = [row for row in rows if {row["label_0"], row["label_1"]} == {0.0, 1.0}]
    judged = Counter(_content(row, with_label=False) for row in legal)
    assert sum(count == 2 for count in judged.values()) == 2, "the duplicate and the contradiction"


def test_the_dirt_is_about_two_percent(make_pairs: ModuleType, world: ModuleType) -> None:
    images = world.render(world.training_prompts()[:40], np.random.default_rng(0))
    pairs = make_pairs.label_pairs(world.training_prompts()[:40], images, images[::-1], 3)
    dirt = make_pairs.plant_dirt(pairs)
    assert len(dirt) == 12
    assert {kind for kind, pair in dirt.items() if pair in pairs} == {"exact_duplicate"}


def test_a_row_names_the_winner(make_pairs: ModuleType) -> None:
    when = datetime(2026, 1, 5, tzinfo=UTC)
    rows = [
        make_pairs.to_row(make_pairs.Pair("c", b"left", b"right", label, 1.0 - label, "u", when), 4, 2)
        for label in (1.0, 0.0, 0.5)
    ]
    assert [row["best_image_uid"] for row in rows] == [rows[0]["image_0_uid"], rows[0]["image_1_uid"], "tie"]
    assert all(row["are_different"] and row["num_example_per_prompt"] == 2 for row in rows)


def test_training_prompts_are_all_the_others(shapes_dir: Path, world: ModuleType) -> None:
    lines = (shapes_dir / "training_prompts.txt").read_text().splitlines()
    assert lines == list(world.training_prompts())
    assert not set(lines) & set(world.heldout_prompts())


def test_prompts_file_holds_exactly_the_heldout_prompts(shapes_dir: Path, world: ModuleType) -> None:
    lines = (shapes_dir / "prompts.tsv").read_text().splitlines()
    assert lines[0] == "prompt\tcategory"
    assert [line.split("\t")[0] for line in lines[1:]] == list(world.heldout_prompts())
    assert {line.split("\t")[1] for line in lines[1:]} == {"circle", "square", "triangle", "star", "diamond", "ring"}
