"""A CLIP in transformers' folder layout, shared by all CLIP scorers.

B counts images or texts, D is the width of the shared embedding.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from alignment.rewards.whole_weights import load_whole

# Without torchvision, AutoImageProcessor returns this class; with it, another class whose pixels differ by a grey level
# in places. Naming the class makes the scores independent of the installed packages.
PROCESSOR_BACKEND = "pil"
DTYPE = "float32"

_FILES = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class ClipModel:
    """Unit embeddings of images and texts, float32, without gradients."""

    def __init__(self, weights_dir: Path, device: torch.device) -> None:
        _require_files(weights_dir)
        model = load_whole(CLIPModel, weights_dir, what="CLIP folder")
        self.device = device
        # Copied, because the weights of a mapped file start at any byte and the rounding of CPU kernels depends on
        # memory alignment: without it the scores of two processes may differ by 1e-7.
        self._model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        self._processor = CLIPImageProcessorPil.from_pretrained(weights_dir, local_files_only=True)
        self._tokenizer = CLIPTokenizer.from_pretrained(weights_dir, local_files_only=True)
        longest_text = self._model.config.text_config.max_position_embeddings
        self._num_tokens = min(self._tokenizer.model_max_length, longest_text)

    @property
    def logit_scale(self) -> float:
        """exp of the learnt parameter; about 100 in published models."""
        return float(self._model.logit_scale.exp())

    @property
    def width(self) -> int:
        """D of the shared embedding."""
        return int(self._model.config.projection_dim)

    def pixels(self, images_B: Sequence[Image.Image]) -> Tensor:
        """Return the vision tower's input, BCHW: 8-bit images resized and cropped by the folder's processor."""
        prepared: Tensor = self._processor(images=[image.convert("RGB") for image in images_B], return_tensors="pt")[
            "pixel_values"
        ]
        return prepared

    def tokens(self, texts: Sequence[str]) -> Any:
        """Return input_ids and attention_mask BL. The tokenizer cuts long texts and keeps the end token.

        Every text is padded to the full length, so that its embedding does not depend on its neighbours.
        """
        return self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._num_tokens, return_tensors="pt"
        )

    @torch.no_grad()
    def embed_images(self, images_B: Sequence[Image.Image]) -> Tensor:
        """Return the unit embeddings BD of `pixels`."""
        features = self._model.get_image_features(pixel_values=self.pixels(images_B).to(self.device))
        return unit(features.pooler_output)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the unit embeddings BD of `tokens`."""
        tokens = self.tokens(texts).to(self.device)
        features = self._model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return unit(features.pooler_output)

    def cosines(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return cos(image b, prompt b), float32 on the CPU. A repeated prompt is embedded once."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        if not prompts:
            return torch.empty(0)
        distinct = list(dict.fromkeys(prompts))
        row = {prompt: index for index, prompt in enumerate(distinct)}
        texts_BD = self.embed_texts(distinct)[[row[prompt] for prompt in prompts]]
        cosines_B = (self.embed_images(images_B) * texts_BD).sum(dim=1)
        return cosines_B.float().cpu()


def unit(embeddings_BD: Tensor) -> Tensor:
    """Divide embeddings by their length. An embedding of zeros stays unchanged."""
    norm_B1: Tensor = torch.linalg.vector_norm(embeddings_BD, dim=1, keepdim=True)
    return embeddings_BD / norm_B1.where(norm_B1 > 0, 1.0)


def _require_files(folder: Path) -> None:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        missing.append("tokenizer.json (or vocab.json with merges.txt)")
    if missing:
        raise ValueError(
            f"The CLIP folder {folder} lacks {', '.join(missing)}. It needs the files that save_pretrained of"
            " CLIPModel, CLIPTokenizer and CLIPImageProcessor writes, with weights as safetensors."
        )
