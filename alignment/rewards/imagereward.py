"""ImageReward: BLIP reads prompt and image together, a small network rates its output.

    judge/
        config.json             {"vision": BlipVisionConfig, "text": BlipTextConfig, "mean", "deviation"}
        model.safetensors       vision.*, text.* in transformers' names, head.layers.* in the authors'
        tokenizer.json          BERT's, lower-casing

B counts images, C H W an image, L tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from alignment.catalogues.rewards import ImageReward
from alignment.rewards.affine_head import AffineHead
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND
from alignment.rewards.dead_weights import check_alive
from alignment.rewards.interface import scorer_digest
from alignment.rewards.judge_files import read_json, require_files

NUM_TOKENS = 35
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ImageRewardScorer:
    """(head([CLS]) - mean) / deviation: about standard normal on the authors' own data.

    Source: Xu et al. 2023, arXiv:2304.05977. The text encoder uses [CLS], while BLIP's matching uses [ENC]. Prompts are
    cut at 35 tokens, so half of a long prompt is not read. Vision layer norms have epsilon 1e-6.
    """

    def __init__(self, weights_dir: Path, params: ImageReward, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        self._blip = _Blip(weights_dir, device)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        return self._blip.rewards(self._blip.features(images_B, prompts)) if prompts else torch.empty(0)


class _Blip:
    """The two towers and the head of a judge's folder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        require_files(folder, "ImageReward folder", ("config.json", "model.safetensors", "tokenizer.json"))
        config = read_json(folder / "config.json")
        self.device = device
        self.mean, self.deviation = float(config["mean"]), float(config["deviation"])
        weights = load_file(folder / "model.safetensors")
        _require_known(weights, folder)
        self._vision = _tower(BlipVisionModel(BlipVisionConfig(**config["vision"])), weights, "vision.", device)
        text = BlipTextModel(BlipTextConfig(**config["text"]), add_pooling_layer=False)
        self._text = _tower(text, weights, "text.", device)
        self._head = AffineHead.from_weights(_part(weights, "head."), folder, biased=True).to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._side = int(config["vision"]["image_size"])

    def tokens(self, prompts: Sequence[str]) -> Any:
        """Return input_ids and attention_mask BL, padded to 35."""
        return self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
        )

    def pixels(self, images_B: Sequence[Image.Image]) -> Tensor:
        """Return BCHW: shortest side resized (bicubic, 8-bit values), centre crop, normalised as in CLIP."""
        mean_C11, deviation_C11 = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, DEVIATION))
        squares = [_centre_square(image.convert("RGB"), self._side) for image in images_B]
        pixels = [torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255 for square in squares]
        scaled: Tensor = (torch.stack(pixels) - mean_C11) / deviation_C11
        return scaled

    @torch.no_grad()
    def image_states(self, images_B: Sequence[Image.Image]) -> Tensor:
        """Return the vision tower's states, one per patch and one for the complete image."""
        states: Tensor = self._vision(pixel_values=self.pixels(images_B).to(self.device)).last_hidden_state
        return states

    @torch.no_grad()
    def features(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return the text encoder's [CLS] state with cross-attention to the image, image b with prompt b."""
        states = self.image_states(images_B)
        tokens = self.tokens(prompts).to(self.device)
        seen = self._text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=self.device),
        )
        first: Tensor = seen.last_hidden_state[:, 0]
        return first

    @torch.no_grad()
    def rewards(self, features_BD: Tensor) -> Tensor:
        """Return normalised ratings, float32 on the CPU."""
        rating_B = self._head(features_BD).squeeze(-1)
        reward_B: Tensor = (rating_B - self.mean) / self.deviation
        return reward_B.float().cpu()


def _centre_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the shortest side to `side`, crop the centre; half of an odd margin rounds to even, as in torchvision.

    transformers' processor rounds that margin down, which moves some crops by a pixel.
    """
    width, height = image.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    return resized.crop((left, top, left + side, top + side))


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, with the prefix removed."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _require_known(weights: dict[str, Tensor], folder: Path) -> None:
    strange = sorted(name for name in weights if name.split(".")[0] not in ("vision", "text", "head"))
    if strange:
        raise ValueError(
            f"The ImageReward folder {folder} holds {len(strange)} unused weights ("
            f"{', '.join(strange[:3])}). Import the judge again."
        )


def _tower(model: nn.Module, weights: dict[str, Tensor], prefix: str, device: torch.device) -> nn.Module:
    """The model with its weights loaded, with every weight used."""
    try:
        model.load_state_dict(_part(weights, prefix))
    except RuntimeError as error:
        raise ValueError(f"The weights {prefix}* do not fit config.json: {error}. Import the judge again.") from error
    check_alive(dict(model.named_parameters()), f"part {prefix}* of ImageReward")
    return model.to(device).eval().requires_grad_(False)
