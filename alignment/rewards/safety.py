"""An independent image classifier as a guard: the probability, or the rate, of unsafe images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from alignment.catalogues.rewards import Safety
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND
from alignment.rewards.interface import scorer_digest
from alignment.rewards.judge_files import require_files
from alignment.rewards.whole_weights import load_whole


class SafetyScorer:
    """1 - p(unsafe). With a threshold: 1 for a safe image and 0 for an unsafe one, so the mean is a rate."""

    def __init__(self, weights_dir: Path, params: Safety, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        require_files(weights_dir, "classifier", ("config.json", "preprocessor_config.json"))
        self.device = device
        self._threshold = params.threshold
        self._processor = AutoImageProcessor.from_pretrained(weights_dir, backend="pil", local_files_only=True)
        model = load_whole(AutoModelForImageClassification, weights_dir, what="classifier", may_hold=("pooler",))
        self._model = model.to(device).eval().requires_grad_(False)
        known = {str(name): int(number) for number, name in model.config.id2label.items()}
        missing = [label for label in params.unsafe_labels if label not in known]
        if missing:
            raise ValueError(
                f"The classifier {weights_dir} has no label {', '.join(missing)}; it has {', '.join(known)}. List those"
                " that count as unsafe in unsafe_labels."
            )
        self._unsafe = [known[label] for label in params.unsafe_labels]

    @torch.no_grad()
    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`. Prompts are ignored."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        if not images_B:
            return torch.empty(0)
        pixels = self._processor(images=[image.convert("RGB") for image in images_B], return_tensors="pt")
        logits_BC = self._model(pixel_values=pixels["pixel_values"].to(self.device)).logits
        unsafe_B: Tensor = logits_BC.float().softmax(dim=1)[:, self._unsafe].sum(dim=1).cpu()
        return 1 - unsafe_B if self._threshold is None else (unsafe_B < self._threshold).float()
