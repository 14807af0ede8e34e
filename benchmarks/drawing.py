"""Measure the rate of evaluation's drawing against the bare pipeline's loop over batches, in one run.

Ours encodes each prompt once, draws from given noise, and writes PNG files from threads; the bare loop calls the
pipeline with prompts and discards the images. Both use the same weights, steps, guidance and batches. The goal is 0.95.
Without arguments the base is that of the shapes world. On a GPU give a base that is worth measuring:

    python benchmarks/drawing.py --base FOLDER --family sdxl --batch 8 --prompts 4

It takes about a minute on two idle cores.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alignment.catalogues.backbones import BACKBONES
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.evaluation.models import load_model
from alignment.evaluation.sampling import ImageKey, image_grid, sample_images
from alignment.statistics.prompts import EvalPrompt

SHAPES = Path(__file__).parents[1] / "examples" / "shapes" / "base"
BASE = ModelRef(kind="base", weights_digest="0" * 64)
ROUNDS = 5
GOAL = 0.95


def main() -> None:
    """Measure each number format; on a CPU only fp32."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=SHAPES)
    parser.add_argument("--family", choices=[family().name for family in BACKBONES], default="stable_diffusion")
    parser.add_argument("--resolution", type=int, help="pixels; by default the family's, or 64 for the shapes base")
    for name, value in (("batch", 8), ("prompts", 8), ("seeds", 2), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    for precision in ("bf16", "fp32") if torch.cuda.is_available() else ("fp32",):
        measure(given, precision)


def measure(given: Any, precision: Any) -> None:
    """Alternate both, after a warm-up of each, and print the median rates."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = next(family for family in BACKBONES if family().name == given.family)
    resolution = given.resolution or (64 if given.base == SHAPES else family().resolution)
    backbone: Any = family(resolution=resolution)
    guidance = 3.5 if given.family == "flux" else 5.0
    sampler = Sampler(scheduler=family.scheduler, steps=given.steps, guidance_scale=guidance, precision=precision)
    keys = image_grid(
        [
            EvalPrompt(number, f"a small red circle on a white background {number}", "")
            for number in range(given.prompts)
        ],
        range(given.seeds),
    )
    pipeline = load_model(backbone, given.base, BASE, None, device=device, precision=precision)
    pipeline.set_progress_bar_config(disable=True)

    def ours(folder: Path) -> None:
        sample_images(pipeline, keys, folder, sampler=sampler, resolution=resolution, micro_batch=given.batch)

    def bare(_: Path) -> None:
        for start in range(0, len(keys), given.batch):
            draw_batch(pipeline, keys[start : start + given.batch], sampler, resolution)

    rates = alternate(ours, bare, len(keys))
    ratio = statistics.median(mine / theirs for mine, theirs in rates)
    print(
        f"drawing {given.family} {resolution} px {precision} on {device.type}, batches of {given.batch}: ours"
        f" {statistics.median(mine for mine, _ in rates):.2f} images/s, bare pipeline"
        f" {statistics.median(theirs for _, theirs in rates):.2f} images/s, ratio {ratio:.3f} (goal {GOAL})",
        flush=True,
    )


def draw_batch(pipeline: Any, keys: list[ImageKey], sampler: Sampler, resolution: int) -> None:
    """Draw as a script with diffusers does."""
    pipeline(
        [key.prompt.text for key in keys],
        height=resolution,
        width=resolution,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(key.seed) for key in keys],
    )


def alternate(ours: Callable[[Path], None], bare: Callable[[Path], None], num_images: int) -> list[tuple[float, float]]:
    """Return images per second of both, for each round."""
    rates = []
    for round_number in range(ROUNDS + 1):
        pair = []
        for run in (ours, bare):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                run(Path(folder))
                pair.append(num_images / (time.perf_counter() - started))
        if round_number:
            rates.append((pair[0], pair[1]))
    return rates


if __name__ == "__main__":
    main()
