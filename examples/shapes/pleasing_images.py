"""Make images that please one judge: gradient ascent on its score through the base's decoder.

The simplest form of over-optimising a proxy. The judge prefers the result more and more, other judges and the oracle
less. Shape letters: B images, C H W channels and sides, D width of the judge's embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from drawing import ImageArray
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

STEPS = 12
STEP_SIZE = 0.2
"""Learning rate of Adam, in standard deviations of the latents."""
_BATCH = 64


class OneJudge:
    """A CLIP preference judge as a differentiable function."""

    def __init__(self, folder: Path) -> None:
        self._model = CLIPModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder)
        processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._mean, self._spread = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std)
        )

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings BD."""
        tokens = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        return F.normalize(self._model.get_text_features(**tokens).pooler_output, dim=-1)

    def cosines(self, pixels_BCHW: Tensor, texts_BD: Tensor) -> Tensor:
        """cos(image, text) of pixels in 0..1 at the judge's own size, B numbers."""
        scaled_BCHW = (pixels_BCHW - self._mean) / self._spread
        images_BD = F.normalize(self._model.get_image_features(pixel_values=scaled_BCHW).pooler_output, dim=-1)
        return (images_BD * texts_BD).sum(dim=-1)


def please(judge_dir: Path, base_dir: Path, images: ImageArray, prompts: Sequence[str]) -> ImageArray:
    """Return the images [N, H, W, 3] after some ascent steps on the judge's score."""
    judge = OneJudge(judge_dir)
    decoder = AutoencoderKL.from_pretrained(base_dir / "vae", use_safetensors=True).eval().requires_grad_(False)
    parts = [
        _climb(judge, decoder, images[start : start + _BATCH], prompts[start : start + _BATCH])
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)


def _climb(judge: OneJudge, autoencoder: AutoencoderKL, images: ImageArray, prompts: Sequence[str]) -> ImageArray:
    texts_BD = judge.texts(prompts)
    pixels_BCHW = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    latents_BCHW = autoencoder.encode(pixels_BCHW).latent_dist.mean.requires_grad_()
    optimiser = torch.optim.Adam([latents_BCHW], lr=STEP_SIZE * float(latents_BCHW.detach().std()))
    for _ in range(STEPS):
        loss = -judge.cosines(_decoded(autoencoder, latents_BCHW), texts_BD).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found_BHWC = _decoded(autoencoder, latents_BCHW).permute(0, 2, 3, 1).numpy()
    return np.rint(found_BHWC * 255.0).astype(np.uint8)


def _decoded(autoencoder: AutoencoderKL, latents_BCHW: Tensor) -> Tensor:
    pixels: Tensor = autoencoder.decode(latents_BCHW).sample
    return (pixels / 2 + 0.5).clamp(0.0, 1.0)
