"""Measure the encode job's rate against the bare forward pass of its VAE, in the same number format and in one run.

The job decodes JPEG files, crops, encodes and writes shards; the bare pass gets pixels that are on the device already.
Their ratio is the share of the time in which the VAE computes; the goal is 0.9. The base is that of the shapes world
with another VAE of random weights: on a GPU with the sizes of SDXL's at 1024 px, on a CPU with a quarter of its
channels at 256 px.

Run `python benchmarks/encode.py`; it takes about two minutes on two idle cores.
"""

import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from alignment.backbones.diffusers_model import LARGE_ENCODED, LARGE_FROM
from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.data import EncodeSpec, Encoding
from alignment.data.feature_writing import IMAGES_AT_ONCE, FeatureWriter
from alignment.data.pairs import TrainingPairs
from alignment.jobs.encode import DECODE_THREADS

BASE = Path(__file__).parents[1] / "examples" / "shapes" / "base"
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
RESOLUTION = 1024 if ON_GPU else 256
CHANNELS = (128, 256, 512, 512) if ON_GPU else (32, 64, 128, 128)
NUM_PAIRS = 128 if ON_GPU else 16
SHARD_PAIRS = 32 if ON_GPU else 8
ROUNDS = 3
GOAL = 0.9


def main() -> None:
    """Measure each number format; on a CPU only fp32."""
    with tempfile.TemporaryDirectory() as scratch:
        make_base(Path(scratch) / "base")
        make_snapshot(Path(scratch) / "snapshot")
        for precision in ("bf16", "fp32") if ON_GPU else ("fp32",):
            spec = EncodeSpec(
                snapshot_digest="0" * 64,
                base_digest="0" * 64,
                backbone=StableDiffusion(resolution=RESOLUTION),
                encoding=Encoding(precision=precision),
                shard_pairs=SHARD_PAIRS,
            )
            measure(spec, Path(scratch))


def make_base(folder: Path) -> None:
    """Write the shapes base with a VAE of random weights."""
    from diffusers import AutoencoderKL

    shutil.copytree(BASE, folder)
    shutil.rmtree(folder / "vae")
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
    )
    vae.save_pretrained(folder / "vae")


def make_snapshot(folder: Path) -> None:
    """Write pairs of JPEG files, a quarter larger than the crop, with the detail of a photograph."""
    generator, side = np.random.default_rng(0), RESOLUTION * 5 // 4
    images = []
    for _ in range(2 * NUM_PAIRS):
        coarse = Image.fromarray(generator.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8))
        fine = generator.normal(0, 6, (side, side, 3))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + fine
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
        images.append(buffer.getvalue())
    folder.mkdir()
    rows = {
        "pair_id": [f"{index:064x}" for index in range(NUM_PAIRS)],
        **dict.fromkeys(("prompt", "caption_chosen", "caption_rejected"), ["a circle"] * NUM_PAIRS),
        "image_chosen": images[:NUM_PAIRS],
        "image_rejected": images[NUM_PAIRS:],
        "is_tie": [False] * NUM_PAIRS,
    }
    pq.write_table(pa.table(rows), folder / "train.parquet", row_group_size=32)


def measure(spec: EncodeSpec, scratch: Path) -> None:
    """Alternate both, after a warm-up of each, and print the median rates."""
    backbone = StableDiffusionBackbone(scratch / "base", StableDiffusion(resolution=RESOLUTION), DEVICE)
    threads = DECODE_THREADS if ON_GPU else 1
    job, bare = list[float](), list[float]()
    for round_number in range(ROUNDS + 1):
        out = scratch / f"{spec.encoding.precision}_{round_number}"
        writer = FeatureWriter(TrainingPairs(scratch / "snapshot"), backbone, spec, out, threads=threads)
        rates = rate_of_job(writer, 2 * NUM_PAIRS), rate_of_vae(backbone, 2 * NUM_PAIRS)
        if round_number:
            job.append(rates[0])
            bare.append(rates[1])
        shutil.rmtree(out)
    ours, theirs = statistics.median(job), statistics.median(bare)
    ratio = statistics.median(a / b for a, b in zip(job, bare, strict=True))
    print(
        f"encode {RESOLUTION} px {spec.encoding.precision} on {DEVICE.type}: job {ours:.2f} images/s, bare VAE"
        f" {theirs:.2f} images/s, ratio {ratio:.3f} (goal {GOAL})",
        flush=True,
    )


def rate_of_job(writer: FeatureWriter, num_images: int) -> float:
    """Images per second of the writer, text states included."""
    started = time.perf_counter()
    writer.write(0, 1, lambda: None)
    return num_images / (time.perf_counter() - started)


@torch.no_grad()
def rate_of_vae(backbone: StableDiffusionBackbone, num_images: int) -> float:
    """Images per second of the VAE's encoder on the batches of the job."""
    size = LARGE_ENCODED if RESOLUTION >= LARGE_FROM else IMAGES_AT_ONCE
    pixels_BCHW = torch.rand(size, 3, RESOLUTION, RESOLUTION, device=DEVICE) * 2 - 1
    pixels_BCHW = pixels_BCHW.to(backbone.encoder_dtype)
    synchronise()
    started = time.perf_counter()
    for _ in range(num_images // len(pixels_BCHW)):
        backbone.vae.encode(pixels_BCHW)
    synchronise()
    return num_images / (time.perf_counter() - started)


def synchronise() -> None:
    """Wait until the device has computed."""
    if ON_GPU:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
