"""Sampling: inputs that determine an image, and settings that must not change it."""

import errno
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.backbones.drawing import drawing_of, to_images
from alignment.backbones.stable_diffusion import load_pipeline
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.evaluation import sampling
from alignment.evaluation.sampling import (
    ImageKey,
    TextStates,
    _noise_seed,
    draw_batch,
    image_grid,
    is_blank,
    missing_images,
    png_bytes,
    sample_images,
    share_of_rank,
)
from alignment.evaluation.scoring import read_image
from alignment.statistics.prompts import EvalPrompt

pytestmark = pytest.mark.timeout(240)

SAMPLER = Sampler(steps=3, guidance_scale=2.0)
PROMPTS = [EvalPrompt(i, f"a plain {c} picture", "c") for i, c in enumerate(("red", "green", "blue"))]


@pytest.fixture(scope="module")
def pipeline(tiny_sd_dir: Path) -> Any:
    return load_pipeline(tiny_sd_dir, ModelRef(kind="base", weights_digest="0" * 64), None)


def drawn(pipeline: Any, keys: list[ImageKey], sampler: Sampler = SAMPLER) -> torch.Tensor:
    return draw_batch(pipeline, TextStates(drawing_of(pipeline)), keys, sampler=sampler, resolution=64)


def test_grid_lists_every_prompt_with_every_seed_prompt_by_prompt() -> None:
    names = [key.file_name for key in image_grid(PROMPTS[:2], (0, 7))]
    assert names == ["00000_0.png", "00000_7.png", "00001_0.png", "00001_7.png"]


@pytest.mark.parametrize(("count", "ranks"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_shares_are_even_and_cover_all_the_work(count: int, ranks: int) -> None:
    keys = image_grid([EvalPrompt(i, "x", "") for i in range(count)], (0,))
    shares = [share_of_rank(keys, rank, ranks) for rank in range(ranks)]
    assert [key for share in shares for key in share] == keys
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_image_does_not_depend_on_its_batch(pipeline: Any) -> None:
    keys = image_grid(PROMPTS, (0, 1))
    together = drawn(pipeline, keys)
    alone = torch.cat([drawn(pipeline, [key]) for key in reversed(keys)]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_every_image_of_a_grid_starts_from_its_own_noise() -> None:
    seeds = {_noise_seed(key) for key in image_grid([EvalPrompt(i, "x", "") for i in range(50)], range(20))}
    assert len(seeds) == 1000
    renamed = ImageKey(EvalPrompt(3, "another text", "other"), 5)
    assert _noise_seed(renamed) == _noise_seed(ImageKey(EvalPrompt(3, "x", ""), 5))


def test_images_equal_those_of_the_pipeline_called_one_by_one(pipeline: Any) -> None:
    """Prompt text, guidance and steps reach the model: compared with a call of diffusers' own pipeline."""
    key = ImageKey(PROMPTS[2], 4)
    noise = torch.randn(4, 8, 8, generator=torch.Generator("cpu").manual_seed(_noise_seed(key)))
    direct = pipeline(
        PROMPTS[2].text, latents=noise[None], num_inference_steps=3, guidance_scale=2.0, output_type="pt"
    ).images
    torch.testing.assert_close(drawn(pipeline, [key]), direct, atol=1e-4, rtol=0)
    assert (drawn(pipeline, [key], Sampler(steps=3, guidance_scale=6.0)) - direct).abs().max() > 1e-3
    assert (drawn(pipeline, [ImageKey(PROMPTS[1], 4)]) - direct).abs().max() > 1e-3


def test_each_prompt_is_encoded_once(pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    original = pipeline.encode_prompt

    def counting(prompts: list[str], *positional: Any, **named: Any) -> Any:
        if prompts is not None:
            encoded.extend(prompts)
        return original(prompts, *positional, **named)

    monkeypatch.setattr(pipeline, "encode_prompt", counting)
    done: list[int] = []
    sample_images(
        pipeline,
        image_grid(PROMPTS, (0, 1)),
        tmp_path,
        sampler=Sampler(steps=1, guidance_scale=2.0),
        resolution=64,
        micro_batch=3,
        after_batch=done.append,
    )
    assert sorted(encoded) == sorted(["", *(prompt.text for prompt in PROMPTS)])
    assert done == [3, 6]


def test_only_missing_images_are_drawn(pipeline: Any, tmp_path: Path) -> None:
    grid = image_grid(PROMPTS[:2], (0, 1))
    kept = tmp_path / grid[0].file_name
    kept.write_bytes(b"already there")
    missing = missing_images(tmp_path, grid)
    assert missing == grid[1:]
    sample_images(
        pipeline, missing, tmp_path, sampler=Sampler(steps=1, guidance_scale=1.0), resolution=64, micro_batch=8
    )
    assert missing_images(tmp_path, grid) == []
    assert kept.read_bytes() == b"already there"
    assert read_image(tmp_path / grid[3].file_name).size == (64, 64)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".png"]


def test_files_are_those_of_a_loop_that_writes_each_batch_before_the_next(pipeline: Any, tmp_path: Path) -> None:
    grid, texts = image_grid(PROMPTS, (0, 1)), TextStates(drawing_of(pipeline))
    sample_images(pipeline, grid, tmp_path, sampler=SAMPLER, resolution=64, micro_batch=4)
    for start in (0, 4):
        batch = grid[start : start + 4]
        images = to_images(draw_batch(pipeline, texts, batch, sampler=SAMPLER, resolution=64))
        for key, image in zip(batch, images, strict=True):
            assert (tmp_path / key.file_name).read_bytes() == png_bytes(image)


def test_a_batch_counts_when_its_files_are_on_the_disk_and_the_next_is_drawn_meanwhile(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, drawn_second, counted = image_grid(PROMPTS, (0,)), threading.Event(), list[tuple[int, int]]()

    def slow(path: Path, content: bytes) -> None:
        if path.name == grid[0].file_name:
            assert drawn_second.wait(60), "the second batch is drawn before the first is written"
        path.write_bytes(content)

    def draw(*given: Any, **named: Any) -> torch.Tensor:
        if given[2] == grid[1:2]:
            drawn_second.set()
        return draw_batch(*given, **named)

    monkeypatch.setattr(sampling, "write_bytes", slow)
    monkeypatch.setattr(sampling, "draw_batch", draw)
    sample_images(
        pipeline,
        grid,
        tmp_path,
        sampler=Sampler(steps=1, guidance_scale=1.0),
        resolution=64,
        micro_batch=1,
        after_batch=lambda done: counted.append((done, len(missing_images(tmp_path, grid[:done])))),
    )
    assert counted == [(1, 0), (2, 0), (3, 0)]


def test_a_full_disk_ends_the_drawing(pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sampling, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        sample_images(
            pipeline,
            image_grid(PROMPTS, (0,)),
            tmp_path,
            sampler=Sampler(steps=1, guidance_scale=1.0),
            resolution=64,
            micro_batch=1,
            after_batch=done.append,
        )
    assert done == []


def test_pixels_are_rounded_and_survive_png() -> None:
    values = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.7, -0.3])
    image = to_images(values.expand(1, 3, 1, 6))[0]
    again = np.asarray(Image.open(io.BytesIO(png_bytes(image))))
    assert again[0, :, 0].tolist() == [0, 0, 1, 255, 255, 0]


def test_only_the_image_that_is_not_finite_becomes_black() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    images[0, 1, 2, 3] = float("nan")
    black, grey = to_images(images)
    assert np.asarray(black).max() == 0
    assert np.asarray(grey).min() == 128


@pytest.mark.parametrize(
    ("pixels", "blank"),
    [
        (np.zeros((8, 8, 3)), True),
        (np.random.default_rng(0).integers(0, 4, (8, 8, 3)), True),
        (np.full((8, 8, 3), (200, 10, 10)), True),
        (np.eye(8)[..., None] * [4, 0, 0], False),
        (np.random.default_rng(0).integers(0, 255, (8, 8, 3)), False),
    ],
)
def test_blank_means_black_or_one_colour(pixels: Any, blank: bool) -> None:
    assert is_blank(Image.fromarray(pixels.astype(np.uint8))) is blank
