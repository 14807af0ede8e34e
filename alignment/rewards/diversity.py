"""Diversity of the seeds of a prompt. B counts images, S the seeds of a prompt, D the width of an embedding."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from alignment.catalogues.rewards import Diversity
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND, unit
from alignment.rewards.interface import scorer_digest
from alignment.rewards.judge_files import read_json, require_files
from alignment.rewards.whole_weights import load_whole

UNREAD = ("pooler", "mask_token")
"""Parts that the [CLS] state of an unmasked image does not depend on."""
HEADS = ("classifier", "visual_projection")
"""Heads that a published vision model may include."""


class DiversityScorer:
    """For each image, the mean of 1 - cosine to the prompt's other images; their mean is the mean over all pairs.

    The embedding is a CLIP's image embedding, or the [CLS] state of another vision model such as DINOv2.
    """

    def __init__(self, weights_dir: Path, params: Diversity, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        require_files(weights_dir, "embedder", ("config.json", "preprocessor_config.json"))
        self.device = device
        self._is_clip = read_json(weights_dir / "config.json").get("model_type") == "clip"
        self._processor = AutoImageProcessor.from_pretrained(weights_dir, backend="pil", local_files_only=True)
        unread = () if self._is_clip else UNREAD
        heads = () if self._is_clip else HEADS
        model = load_whole(AutoModel, weights_dir, what="embedder", may_lack=unread, may_hold=(*unread, *heads))
        self._model = model.to(device).eval().requires_grad_(False)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B of one model's images. ValueError unless each prompt has at least two, next to each other."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        scores_B = torch.empty(len(prompts))
        for prompt in dict.fromkeys(prompts):
            rows = [row for row, other in enumerate(prompts) if other == prompt]
            scores_B[rows] = _mean_distances(self.embed([images_B[row] for row in rows]))
        return scores_B

    @torch.no_grad()
    def embed(self, images_S: Sequence[Image.Image]) -> Tensor:
        """Return unit embeddings SD, float32 on the CPU."""
        prepared = self._processor(images=[image.convert("RGB") for image in images_S], return_tensors="pt")
        pixels = prepared["pixel_values"].to(self.device)
        if self._is_clip:
            features: Tensor = self._model.get_image_features(pixel_values=pixels).pooler_output
        else:
            features = self._model(pixel_values=pixels).last_hidden_state[:, 0]
        return unit(features.float().cpu())


def _mean_distances(embeddings_SD: Tensor) -> Tensor:
    """Return the mean of 1 - cosine from each embedding to the others: S numbers between 0 and 2."""
    seeds = len(embeddings_SD)
    if seeds < 2:
        raise ValueError(
            "Diversity compares the seeds of a prompt and needs at least two. Add a seed to the evaluation."
        )
    distances_SS = 1 - embeddings_SD @ embeddings_SD.T
    distances_SS.fill_diagonal_(0)
    return distances_SS.sum(dim=1) / (seeds - 1)
