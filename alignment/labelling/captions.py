"""Caption images with an image-to-text model of transformers' BLIP class, loaded from a local folder.

B counts images, L tokens.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from alignment.contracts.captions import Captioner
from alignment.labelling.captioner_files import CAPTIONER_CLASS, check_captioner_files


class BlipCaptioner:
    """Captions images without randomness: greedily, or with beams where the settings name several.

    Pillow scales an image to the model's square as the folder's processor specifies. The same images in the same
    batches give the same captions. ValueError for a folder that lacks a file, is of another class, or whose weights do
    not fill the class.
    """

    def __init__(self, weights_dir: Path, settings: Captioner, device: torch.device) -> None:
        check_captioner_files(weights_dir)
        self.settings = settings
        self.device = device
        self._model = _load(weights_dir).to(device)
        self._processor = BlipImageProcessorPil.from_pretrained(weights_dir, local_files_only=True)
        self._tokenizer = BertTokenizer.from_pretrained(weights_dir, local_files_only=True)
        self._prompt_L = self._tokenizer(settings.prefix, return_tensors="pt").input_ids[0]
        room = self._model.config.text_config.max_position_embeddings - len(self._prompt_L)
        if room < 1:
            raise ValueError(
                f"The caption prefix {settings.prefix!r} fills the captioner's"
                f" {self._model.config.text_config.max_position_embeddings} tokens. Shorten the prefix in [captions]."
            )
        self._max_new_tokens = min(settings.max_new_tokens, room)

    @torch.no_grad()
    def captions(self, images_B: Sequence[Image.Image]) -> list[str]:
        """Return one caption per image, prefix included; an empty string where the model adds nothing to the prefix."""
        pixels = self._processor(images=list(images_B), return_tensors="pt")["pixel_values"].to(self.device)
        # The model replaces the tokenizer's first token and drops the closing one, so that generation continues the
        # prefix.
        prompts_BL = self._prompt_L.repeat(len(images_B), 1).to(self.device)
        ids_BL = self._model.generate(
            pixel_values=pixels,
            input_ids=prompts_BL,
            max_new_tokens=self._max_new_tokens,
            num_beams=self.settings.num_beams,
            do_sample=False,
        )
        added = self._decode(ids_BL[:, prompts_BL.shape[1] - 1 :])
        complete = self._decode(ids_BL)
        return [text if new else "" for text, new in zip(complete, added, strict=True)]

    def _decode(self, ids_BL: torch.Tensor) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(ids_BL, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def _load(folder: Path) -> Any:
    """Load the model in float32; ValueError when the weights do not fit the class."""
    try:
        model, found = BlipForConditionalGeneration.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The captioner {folder} cannot be loaded: {error} Copy it again.") from error
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise ValueError(
            f"The captioner {folder} lacks {len(names)} weights of {CAPTIONER_CLASS}, first {names[0]}. They would be"
            " random. Copy it again."
        )
    # Copied for the reason given in alignment/rewards/clip_model.py.
    return copy.deepcopy(model).eval().requires_grad_(False)
