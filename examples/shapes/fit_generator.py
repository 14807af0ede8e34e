"""Train the base model of the shapes world: the autoencoder, then the denoiser together with its text encoder.

Shape letters: N images of the pool, B batch, C H W channels and sides, L caption tokens. All randomness comes from
seeded CPU generators, so a run is repeatable on one machine whatever the device.
"""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import world
from diffusers import AutoencoderKL, UNet2DConditionModel
from drawing import CANVAS
from networks import make_scheduler, make_text_encoder, make_unet, make_vae, tokenize
from pooling_start import start_as_pooling
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger(__name__)

LATENT_SCALE = 0.18215
"""The scaling factor that the finished autoencoder states: its raw latents have a standard deviation of 1 / this."""
KL_WEIGHT = 1e-4
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.999
CROP_SHARE = 0.75
"""Share of the autoencoder's steps that train on crops rather than full images."""


@dataclass(frozen=True)
class GeneratorBudget:
    """Training budget of the base model. Batch sizes are in images."""

    num_images: int
    vae_steps: int
    vae_batch: int
    unet_steps: int
    unet_batch: int


@dataclass(frozen=True)
class Pool:
    """Rendered images and, row by row, the index of each one's caption."""

    images_NHWC: Tensor
    captions: tuple[str, ...]
    caption_rows: Tensor
    """Index into `captions`, [N]."""


@dataclass(frozen=True)
class Latents:
    """The pool under the finished autoencoder, scaled to unit standard deviation."""

    mean_NCHW: Tensor
    std_NCHW: Tensor


def render_pool(num_images: int, seed: int, device: torch.device) -> Pool:
    """Render the base model's training images: every prompt of the world equally often, in random order."""
    rng = np.random.default_rng(seed)
    prompts = world.all_prompts()
    rows = np.resize(rng.permutation(len(prompts)), num_images)
    images = np.concatenate(
        [world.render([prompts[r] for r in part], rng) for part in np.array_split(rows, 1 + num_images // 256)]
    )
    return Pool(torch.from_numpy(images).to(device), prompts, torch.from_numpy(rows).to(device))


def to_pixels(images_BHWC: Tensor) -> Tensor:
    """uint8 images as the autoencoder's input [B, 3, H, W] in -1..1."""
    return images_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def optimiser(
    parameters: Sequence[nn.Parameter], lr: float, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a short warm-up and a cosine decay to a hundredth."""
    adamw = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    warmup = max(1, min(100, steps // 10))

    def factor(step: int) -> float:
        decay = 0.505 + 0.495 * math.cos(math.pi * min(1.0, step / max(steps, 1)))
        return min(1.0, (step + 1) / warmup) * decay

    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, factor)


def batches(num_rows: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of row numbers [B], drawn without repeats within a pass."""
    order, at = torch.randperm(num_rows, generator=generator), 0
    for _ in range(steps):
        if at + batch > num_rows:
            order, at = torch.randperm(num_rows, generator=generator), 0
        yield order[at : at + batch]
        at += batch


class _Crops:
    """Windows of half the canvas around the pool's shapes, which contain more edge for the same work."""

    def __init__(self, pool: Pool, generator: torch.Generator) -> None:
        self._images_NHWC, self._generator = pool.images_NHWC, generator
        away_NHW = (pool.images_NHWC.float() - pool.images_NHWC[:, :1, :1].float()).abs().amax(-1)
        weight = away_NHW / away_NHW.sum((1, 2), keepdim=True).clamp(min=1.0)
        places = torch.arange(CANVAS, device=weight.device) - CANVAS / 4
        self._corner_N2 = torch.stack([(weight.sum(axis) * places).sum(-1) for axis in (2, 1)], dim=-1)

    def take(self, rows: Tensor) -> Tensor:
        """uint8 windows [B, H, W, 3] of the given rows of the pool."""
        jitter = torch.randint(-14, 15, (len(rows), 2), generator=self._generator)
        corners = (self._corner_N2[rows].cpu() + jitter).clamp(0, CANVAS // 2).int().tolist()
        side = CANVAS // 2
        return torch.stack(
            [self._images_NHWC[row, y : y + side, x : x + side] for row, (y, x) in zip(rows, corners, strict=True)]
        )


def _autoencoder_loss(
    vae: AutoencoderKL, pixels_BCHW: Tensor, *, progress: float, generator: torch.Generator
) -> Tensor:
    """Squared error with more weight on the shape, a growing share of absolute error, and a little KL.

    Squared error first (progress 0) finds the colours; absolute error later (progress 1) makes the edges crisp.
    """
    posterior = vae.encode(pixels_BCHW).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(pixels_BCHW.device)
    error_BCHW = vae.decode(posterior.mean + posterior.std * noise).sample - pixels_BCHW
    away = (pixels_BCHW - pixels_BCHW[:, :, :1, :1]).abs().amax(1, keepdim=True)
    squared = ((1.0 + 5.0 * (away > 0.1)) * error_BCHW**2).mean()
    absolute = error_BCHW.abs().mean() + sum(error_BCHW.diff(dim=axis).abs().mean() for axis in (2, 3))
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
    return 2.0 * squared + (0.2 + 0.8 * progress) * absolute + KL_WEIGHT * kl


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool) -> Latents:
    """The pool's latents under the autoencoder, times its scaling factor."""
    parts = [vae.encode(to_pixels(part)).latent_dist for part in pool.images_NHWC.split(128)]
    scale = float(vae.config["scaling_factor"])
    return Latents(scale * torch.cat([p.mean for p in parts]), scale * torch.cat([p.std for p in parts]))


@torch.no_grad()
def _standardise(vae: AutoencoderKL, latents: Latents) -> None:
    """Fold each latent channel's mean and scale into the neighbouring 1x1 convolutions.

    The decoded images stay the same, and `LATENT_SCALE` makes the latents unit normal. The pipeline has one scaling
    factor and no shift, so the shift must be in the weights.
    """
    factor = float(vae.config["scaling_factor"])
    variance = latents.mean_NCHW.var(dim=(0, 2, 3)) + (latents.std_NCHW**2).mean(dim=(0, 2, 3))
    shift, scale = latents.mean_NCHW.mean(dim=(0, 2, 3)) / factor, variance.sqrt() / factor * LATENT_SCALE
    channels = len(shift)
    before, after = vae.quant_conv, vae.post_quant_conv
    assert before is not None
    assert after is not None
    assert before.bias is not None
    assert after.bias is not None
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[None, :, None, None]
    before.weight[:channels] /= scale[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - shift) / scale
    before.bias[channels:] -= 2.0 * scale.log()
    vae.register_to_config(scaling_factor=LATENT_SCALE)


def fit_autoencoder(pool: Pool, budget: GeneratorBudget, seed: int) -> AutoencoderKL:
    """Train the autoencoder, on crops first and on full images last."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae, crops = make_vae(), _Crops(pool, generator)
    start_as_pooling(vae)
    vae.to(pool.images_NHWC.device, memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    adamw, schedule = optimiser(parameters, 2e-3, budget.vae_steps)
    for step, rows in enumerate(batches(len(pool.images_NHWC), budget.vae_batch, budget.vae_steps, generator)):
        progress = step / budget.vae_steps
        images = crops.take(rows) if progress < CROP_SHARE else pool.images_NHWC[rows.to(pool.images_NHWC.device)]
        pixels = to_pixels(images).contiguous(memory_format=torch.channels_last)
        loss = _autoencoder_loss(vae, pixels, progress=progress, generator=generator)
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        schedule.step()
        if step % 100 == 0 or step == budget.vae_steps - 1:
            logger.info("autoencoder step %d of %d: loss %.4f", step, budget.vae_steps, loss.item())
    vae.eval().to(memory_format=torch.contiguous_format)
    _standardise(vae, encode_pool(vae, pool))
    return vae


class Average:
    """An exponential moving average of a module's parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's parameters; the first updates move further."""
        self._updates += 1
        keep = min(EMA_DECAY, self._updates / (self._updates + 10.0))
        averaged, current = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(averaged, current, 1.0 - keep)


@dataclass(frozen=True)
class Denoiser:
    """The denoiser and the text encoder that conditions it."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel


class _DenoisingTask:
    """One seeded stream of denoising losses over the pool's latents."""

    def __init__(self, pool: Pool, latents: Latents, *, tokenizer: CLIPTokenizer, seed: int) -> None:
        self._pool, self._latents = pool, latents
        self._device = pool.images_NHWC.device
        self._ids = tokenize(tokenizer, pool.captions).to(self._device)
        self._empty = tokenize(tokenizer, [""]).to(self._device)
        self._scheduler = make_scheduler()
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, denoiser: Denoiser, rows: Tensor) -> Tensor:
        """Mean squared error of the predicted noise on the given rows of the pool."""
        rows = rows.to(self._device)
        mean_BCHW, std_BCHW = self._latents.mean_NCHW[rows], self._latents.std_NCHW[rows]
        draws = torch.randn((2, *mean_BCHW.shape), generator=self.generator).to(self._device)
        timesteps = torch.randint(0, 1000, (len(rows),), generator=self.generator).to(self._device)
        dropped = (torch.rand(len(rows), generator=self.generator) < CAPTION_DROPOUT).to(self._device)
        ids_BL = torch.where(dropped[:, None], self._empty, self._ids[self._pool.caption_rows[rows]])
        noisy = self._scheduler.add_noise(mean_BCHW + std_BCHW * draws[0], draws[1], timesteps)
        text = denoiser.text_encoder(ids_BL).last_hidden_state
        return F.mse_loss(denoiser.unet(noisy, timesteps, text).sample, draws[1])


def fit_denoiser(
    pool: Pool, latents: Latents, budget: GeneratorBudget, *, tokenizer: CLIPTokenizer, seed: int
) -> Denoiser:
    """Train denoiser and text encoder from scratch together; returns their moving averages."""
    torch.manual_seed(seed)
    device = pool.images_NHWC.device
    live = Denoiser(make_unet().to(device, memory_format=torch.channels_last), make_text_encoder(tokenizer).to(device))
    averages = (Average(live.unet), Average(live.text_encoder))
    parameters = [*live.unet.parameters(), *live.text_encoder.parameters()]
    adamw, schedule = optimiser(parameters, 1.5e-3, budget.unet_steps)
    task = _DenoisingTask(pool, latents, tokenizer=tokenizer, seed=seed + 1)
    for step, rows in enumerate(batches(len(pool.images_NHWC), budget.unet_batch, budget.unet_steps, task.generator)):
        loss = task.loss(live, rows)
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        schedule.step()
        averages[0].update(live.unet)
        averages[1].update(live.text_encoder)
        if step % 200 == 0 or step == budget.unet_steps - 1:
            logger.info("denoiser step %d of %d: loss %.4f", step, budget.unet_steps, loss.item())
    unet, text_encoder = averages[0].module, averages[1].module
    unet.to(memory_format=torch.contiguous_format)
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(text_encoder, CLIPTextModel)
    return Denoiser(unet, text_encoder)
