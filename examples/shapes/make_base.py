"""Make the base model and the judges of the shapes world from a seed.

    python examples/shapes/make_base.py --out examples/shapes

writes OUT/base (a StableDiffusionPipeline folder) and OUT/judges/{taste_a,taste_b,caption_match} (CLIPModel folders).
The default budget is meant for one CPU core. On one kind of machine and thread count the same arguments give the same
bytes.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from fit_generator import LATENT_SCALE, GeneratorBudget, Pool, encode_pool, fit_autoencoder, fit_denoiser, render_pool
from fit_judges import PLANS, JudgeBudget, fit_judge
from networks import make_tokenizer, make_vae, save_judge, save_pipeline
from safetensors.torch import load_file

logger = logging.getLogger(__name__)

PARTS = ("autoencoder", "denoiser", *PLANS)


@dataclass(frozen=True)
class Request:
    """Parts to make, output folder, and budget."""

    out_dir: Path
    parts: tuple[str, ...]
    steps_scale: float
    batch_scale: float
    seed: int
    device: torch.device


def _times(number: int, factor: float) -> int:
    return max(2, round(number * factor))


def generator_budget(request: Request) -> GeneratorBudget:
    """The base model's budget: on one CPU core about 35 minutes at scale 1."""
    steps, batch = request.steps_scale, request.batch_scale
    return GeneratorBudget(
        num_images=max(32, min(30_000, _times(12_000, steps))),
        vae_steps=_times(1200, steps),
        vae_batch=_times(16, batch),
        unet_steps=_times(3000, steps),
        unet_batch=_times(64, batch),
    )


def judge_budget(request: Request) -> JudgeBudget:
    """One judge's budget: on one CPU core about 5 minutes at scale 1."""
    steps = request.steps_scale
    return JudgeBudget(
        num_images=max(32, min(16_000, _times(6000, steps))),
        num_pairs=max(32, min(16_000, _times(6000, steps))),
        match_steps=_times(500, steps),
        taste_steps=_times(700, steps),
        batch=_times(64, request.batch_scale),
    )


def be_deterministic() -> None:
    """Make torch's arithmetic repeatable; torch raises for an operation that cannot be."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def _pool(request: Request) -> Pool:
    return render_pool(generator_budget(request).num_images, request.seed, request.device)


def make_autoencoder(request: Request) -> None:
    """Train and save the autoencoder."""
    vae = fit_autoencoder(_pool(request), generator_budget(request), request.seed)
    vae.to("cpu").save_pretrained(request.out_dir / "base" / "vae")


def _saved_autoencoder(weights: Path) -> AutoencoderKL:
    """Load the autoencoder from its weights only: `from_pretrained` would write this machine's path into its config."""
    if not weights.is_file():
        raise ValueError(f"No autoencoder at {weights}; the denoiser needs it. Make the part 'autoencoder' first.")
    vae = make_vae().eval()
    vae.load_state_dict(load_file(weights))
    vae.register_to_config(scaling_factor=LATENT_SCALE)
    return vae


def make_denoiser(request: Request) -> None:
    """Train the denoiser on the latents of the saved autoencoder, and save the whole pipeline."""
    folder = request.out_dir / "base"
    tokenizer, pool = make_tokenizer(), _pool(request)
    vae = _saved_autoencoder(folder / "vae" / "diffusion_pytorch_model.safetensors").to(request.device)
    latents = encode_pool(vae, pool)
    budget = generator_budget(request)
    denoiser = fit_denoiser(pool, latents, budget, tokenizer=tokenizer, seed=request.seed + 1)
    save_pipeline(vae, denoiser.unet, denoiser.text_encoder, tokenizer=tokenizer, folder=folder)


def make_judge(name: str, request: Request) -> None:
    """Train and save one judge."""
    tokenizer = make_tokenizer()
    model = fit_judge(name, PLANS[name], judge_budget(request), tokenizer=tokenizer, device=request.device)
    folder = request.out_dir / "judges" / name
    save_judge(model, tokenizer, folder)


def parse(arguments: Sequence[str] | None) -> Request:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the base model and the judges of the shapes world.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder that gets base/ and judges/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to make (default: all)")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies steps and data (default 1)")
    parser.add_argument("--batch-scale", type=float, default=1.0, help="multiplies batch sizes (default 1)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the base model (default 7)")
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")
    found = parser.parse_args(arguments)
    device = torch.device(found.device)
    return Request(found.out, tuple(found.parts), found.steps_scale, found.batch_scale, found.seed, device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make every requested part."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    request = parse(arguments)
    be_deterministic()
    for part in request.parts:
        if part == "autoencoder":
            make_autoencoder(request)
        elif part == "denoiser":
            make_denoiser(request)
        else:
            make_judge(part, request)
        logger.info("made %s in %s", part, request.out_dir)


if __name__ == "__main__":
    main()
