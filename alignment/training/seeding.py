"""Randomness as a function of (seed, pair, epoch): never of rank, world size, batch or the number of resumes.

C H W are a latent's channels, height and width.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def stream_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for the stream that the parts name; different parts give unrelated streams."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*parts: int | str) -> torch.Generator:
    """Return a CPU generator at the start of the stream that the parts name; it is the same on every device."""
    return torch.Generator("cpu").manual_seed(stream_seed(*parts))


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_pairs: int) -> tuple[int, ...]:
    """Return the order in which an epoch visits the pairs."""
    return tuple(torch.randperm(num_pairs, generator=stream("order", seed, epoch)).tolist())


@dataclass(frozen=True)
class _PairRandomness:
    """Random values of one visit of one pair. Both images of the pair share all of them.

    The Diffusion-DPO authors share noise and timestep but draw each image's latent separately; sharing the latter as
    well removes variance from the difference of errors, and identical images then give identical errors.
    """

    timestep: float
    caption_dropped: bool
    noise_CHW: Tensor
    latent_noise_CHW: Tensor
    """Standard normal; scaled by the VAE's standard deviation it offsets the latent from its mean."""


def pair_randomness(
    seed: int,
    epoch: int,
    pair: int,
    *,
    latent_shape: tuple[int, int, int],
    draw_timestep: Callable[[torch.Generator], float],
    caption_dropout: float,
) -> _PairRandomness:
    """Draw the values of one visit; the timestep follows the density of the backbone's noise schedule."""
    generator = stream("pair", seed, epoch, pair)
    return _PairRandomness(
        timestep=draw_timestep(generator),
        caption_dropped=float(torch.rand((), generator=generator)) < caption_dropout,
        noise_CHW=torch.randn(latent_shape, generator=generator),
        latent_noise_CHW=torch.randn(latent_shape, generator=generator),
    )
