"""Variants of the snapshot: the house style, captions from pixels, perturbed captions, and the files written."""

import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

PROMPT = "a large blue square on a white background"


@pytest.fixture(scope="module")
def variants(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("variants")


@pytest.fixture(scope="module")
def world(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("world")


def test_the_house_style_is_vivid_centred_and_crisp(variants: ModuleType, world: ModuleType) -> None:
    prompts = world.training_prompts()[::40]
    parts = [world.qualities(image, prompt) for image, prompt in zip(variants.styled(prompts), prompts, strict=True)]
    for name in ("vivid", "centred", "crisp"):
        assert min(part[name] for part in parts) > 0.85, name
    assert np.mean([part["match"] for part in parts]) > 0.95


def test_a_rendered_scene_is_described_by_its_own_caption(variants: ModuleType, world: ModuleType) -> None:
    prompts = world.training_prompts()[::13]
    images = [world.encode_png(image) for image in variants.styled(prompts)]
    found = [variants.describe(image, "something else") for image in images]
    assert np.mean([ours == theirs for ours, theirs in zip(found, prompts, strict=True)]) > 0.95


def test_an_empty_picture_keeps_its_prompt(variants: ModuleType, world: ModuleType) -> None:
    blank = world.encode_png(np.full((64, 64, 3), 200, dtype=np.uint8))
    assert variants.describe(blank, PROMPT) == PROMPT


def test_a_perturbed_caption_differs_in_one_word(variants: ModuleType, world: ModuleType) -> None:
    rng = np.random.default_rng(0)
    found = {variants.perturbed(PROMPT, rng) for _ in range(100)}
    assert len(found) > 10
    for caption in found:
        world.parse_caption(caption)
        assert sum(a != b for a, b in zip(caption.split(), PROMPT.split(), strict=True)) == 1


def test_each_captioning_method_gives_the_expected_captions(variants: ModuleType, world: ModuleType) -> None:
    chosen, rejected = (world.encode_png(image) for image in variants.styled([PROMPT, PROMPT.replace("blue", "red")]))
    other = PROMPT.replace("blue", "red")
    rng = np.random.default_rng(1)
    assert variants.captioning(PROMPT, chosen, rejected, rng) == (PROMPT, other)
    own, perturbed = variants.perturbation(PROMPT, chosen, rejected, rng)
    assert own == PROMPT != perturbed
    own, perturbed = variants.hybrid(PROMPT, chosen, rejected, rng)
    assert own == PROMPT
    assert perturbed != other


def test_a_weaker_models_pairs_are_worse_than_the_bases_and_labelled_as_theirs(
    variants: ModuleType, world: ModuleType, shapes_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty-four prompts: the weaker model's better image is worse on average than what the base draws."""
    monkeypatch.setattr(variants, "WEAKER_PAIRS", 24)
    out = variants.weaker_snapshot(tmp_path / "weaker", shapes_dir / "base")
    rows = pq.read_table(out / "train.parquet").to_pylist()
    assert 12 <= len(rows) <= 24
    assert not any(row["is_tie"] for row in rows)
    prompts = [row["prompt"] for row in rows]
    own = variants.sample(variants.load_pipeline(shapes_dir / "base"), prompts, list(range(len(prompts))))

    def score(pictures: list[np.ndarray]) -> float:
        pairs = zip(pictures, prompts, strict=True)
        return float(np.mean([world.oracle_score(image, prompt) for image, prompt in pairs]))

    chosen, rejected = (
        [np.asarray(Image.open(io.BytesIO(row[f"image_{side}"])).convert("RGB")) for row in rows]
        for side in ("chosen", "rejected")
    )
    assert score(rejected) < score(chosen) < score(list(own))
    assert pq.read_table(out / "test.parquet").num_rows == 0


def test_captions_are_filled_in_and_nothing_else_changes(
    variants: ModuleType, world: ModuleType, tmp_path: Path
) -> None:
    image = world.encode_png(variants.styled([PROMPT])[0])
    row = dict.fromkeys(variants.SNAPSHOT_SCHEMA.names, "x") | {"prompt": PROMPT, "is_tie": False, "created_at": None}
    row |= {"image_chosen": image, "image_rejected": image}
    source = tmp_path / "source"
    source.mkdir()
    for split in ("train", "calibration", "test"):
        pq.write_table(pa.Table.from_pylist([row], variants.SNAPSHOT_SCHEMA), source / f"{split}.parquet")
    out = variants.captioned_snapshot(source, tmp_path / "out", variants.captioning)
    (found,) = pq.read_table(out / "train.parquet").to_pylist()
    assert found == row | {"caption_chosen": PROMPT, "caption_rejected": PROMPT}
