"""Sample the base model, or any pipeline of its family, and arrange pictures on a sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from drawing import CANVAS, ImageArray
from PIL import Image, ImageDraw

STEPS = 20
GUIDANCE = 4.0
_BATCH = 64


def load_pipeline(folder: Path, device: str = "cpu") -> StableDiffusionPipeline:
    """Load a pipeline folder for sampling, without its progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    moved = pipeline.to(device)
    assert isinstance(moved, StableDiffusionPipeline)
    return moved


def sample(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], *, steps: int = STEPS
) -> ImageArray:
    """One image [N, H, W, 3] for each (prompt, seed); each has its own generator, so batching does not change it."""
    parts = []
    for start in range(0, len(prompts), _BATCH):
        chosen = list(prompts[start : start + _BATCH])
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + _BATCH]]
        with torch.inference_mode():
            found = pipeline(
                chosen, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators, output_type="np"
            )
        parts.append(np.rint(np.asarray(found.images) * 255.0).astype(np.uint8))
    return np.concatenate(parts)


def contact_sheet(images: ImageArray, captions: Sequence[str], columns: int) -> Image.Image:
    """A grid of the images at double size, each with its caption below."""
    cell_width, cell_height = 2 * CANVAS + 12, 2 * CANVAS + 34
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = index % columns * cell_width + 6, index // columns * cell_height + 6
        sheet.paste(Image.fromarray(image).resize((2 * CANVAS, 2 * CANVAS), Image.Resampling.LANCZOS), (x, y))
        pen.rectangle((x - 1, y - 1, x + 2 * CANVAS, y + 2 * CANVAS), outline=(210, 210, 210))
        subject, _, background = caption.removeprefix("a ").partition(" on a ")
        pen.text((x, y + 2 * CANVAS + 1), f"{subject}\n{background}", fill=(40, 40, 40), font_size=10)
    return sheet
