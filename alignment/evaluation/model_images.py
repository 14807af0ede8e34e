"""Draw the images of several models of one base: text states are computed once, one model is in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from alignment.backbones.drawing import Drawing, drawing_of
from alignment.backbones.interface import Conditioning
from alignment.catalogues.backbones import Backbone
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.evaluation.models import load_model, load_texts
from alignment.evaluation.sampling import ImageKey, sample_images


class PromptStates:
    """Text states of prompts in host memory, each encoded once; see `alignment.evaluation.sampling.Texts`.

    A prompt takes 0.2 MiB with SD1.5, 0.6 MiB with SDXL, 6 MiB with SD3 and 8 MiB with FLUX, in float32.
    """

    def __init__(self) -> None:
        self._states: dict[str, Conditioning] = {}

    def groups_to_encode(self, prompts: Sequence[str], size: int) -> list[list[str]]:
        """Return the prompts whose states are lacking, in the groups that are encoded together; the empty one first.

        A group holds the new prompts of `size` images in a row. States depend, in the last bits, on their group.
        """
        seen, groups = set(self._states), list[list[str]]()
        for images in [[""], *(prompts[start : start + size] for start in range(0, len(prompts), size))]:
            groups.append([text for text in dict.fromkeys(images) if text not in seen])
            seen.update(images)
        return [group for group in groups if group]

    @torch.inference_mode()
    def encode(self, drawing: Drawing, groups: Sequence[Sequence[str]]) -> None:
        """Encode groups of prompts and keep their states."""
        for group in groups:
            states = {name: rows.cpu() for name, rows in drawing.encode(group).items()}
            self._states |= {text: {name: rows[i] for name, rows in states.items()} for i, text in enumerate(group)}

    def of(self, prompts: Sequence[str]) -> Conditioning:
        """Return the states of prompts, one row each, on the CPU."""
        return {name: torch.stack([self._states[text][name] for text in prompts]) for name in self._states[""]}

    def empty(self, rows: int) -> Conditioning:
        """Repeat the states of the empty prompt."""
        return {name: state.expand(rows, *state.shape) for name, state in self._states[""].items()}


@dataclass(frozen=True)
class ModelImages:
    """Draws images of models that share a base, and therefore its text encoders, VAE and sampler.

    Text encoders are in memory only while prompts are encoded that no earlier model had.
    """

    backbone: Backbone
    base_dir: Path
    sampler: Sampler
    device: torch.device
    micro_batch: int
    texts: PromptStates = field(default_factory=PromptStates)

    def draw(
        self,
        model: ModelRef,
        weights_dir: Path | None,
        keys: Sequence[ImageKey],
        folder: Path,
        *,
        after_batch: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Draw images of one model into a folder, as `sample_images` does, then free the model."""
        if not keys:
            return
        self._encode([key.prompt.text for key in keys])
        pipeline = load_model(
            self.backbone,
            self.base_dir,
            model,
            weights_dir,
            device=self.device,
            precision=self.sampler.precision,
            with_texts=False,
        )
        sample_images(
            pipeline,
            keys,
            folder,
            sampler=self.sampler,
            resolution=self.backbone.resolution,
            micro_batch=self.micro_batch,
            texts=self.texts,
            after_batch=after_batch,
        )

    def _encode(self, prompts: Sequence[str]) -> None:
        groups = self.texts.groups_to_encode(prompts, self.micro_batch)
        if groups:
            pipeline = load_texts(self.backbone, self.base_dir, device=self.device, precision=self.sampler.precision)
            self.texts.encode(drawing_of(pipeline), groups)
