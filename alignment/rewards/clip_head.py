"""A local reward model: a small head on a CLIP's embeddings. The aesthetic predictors are two of this kind.

    judge/
        embedder/           the CLIP in transformers' layout
        head.json           `HeadParams`
        head.safetensors    linear layers by their numbers

B counts images, D the width of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alignment.catalogues.rewards import RewardParams
from alignment.config import validate
from alignment.contracts.values import Record
from alignment.rewards.affine_head import Activation, AffineHead
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND, ClipModel
from alignment.rewards.interface import scorer_digest
from alignment.rewards.judge_files import read_json, require_files

EMBEDDER_DIR = "embedder"
HEAD_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"


class HeadParams(Record):
    """head.json: the settings that the weights do not determine."""

    activation: Activation = "none"
    """Activation between the layers. Scoring uses no dropout."""
    reads: Literal["image", "image_text"] = "image"
    """Input of the head: the image's unit embedding, or that and the prompt's, concatenated."""


class ClipHeadScorer:
    """head(unit embedding): the rating on the scale that the head was trained on."""

    def __init__(self, weights_dir: Path, params: RewardParams, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        require_files(weights_dir, "judge", (HEAD_FILE, WEIGHTS_FILE))
        self._params = validate(HeadParams, read_json(weights_dir / HEAD_FILE), what=str(weights_dir / HEAD_FILE))
        weights = load_file(weights_dir / WEIGHTS_FILE)
        self._head = AffineHead.from_weights(weights, weights_dir, self._params.activation).to(device)
        self._clip = ClipModel(weights_dir / EMBEDDER_DIR, device)
        width = self._clip.width * (2 if self._params.reads == "image_text" else 1)
        if self._head.width != width:
            raise ValueError(
                f"The head of {weights_dir} reads embeddings of width {self._head.width}, but its embedder gives width"
                f" {width}. Import the judge with the CLIP that the head was trained on."
            )

    @torch.no_grad()
    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        if not prompts:
            return torch.empty(0)
        read_BD = self._clip.embed_images(images_B)
        if self._params.reads == "image_text":
            read_BD = torch.cat([read_BD, self._clip.embed_texts(prompts)], dim=1)
        scores_B: Tensor = self._head(read_BD).squeeze(-1)
        return scores_B.float().cpu()
