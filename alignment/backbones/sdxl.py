"""Stable Diffusion XL in diffusers' folder layout.

B counts images or captions, C H W are channels, height and width, L tokens, D features, K the six numbers of a framing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from alignment.backbones.diffusers_model import DiffusersModel, Family, load_model
from alignment.backbones.interface import Conditioning, Framing
from alignment.backbones.noise_schedule import NoiseSchedule
from alignment.backbones.stable_diffusion import StableDiffusionDrawing, load_noise_schedule
from alignment.catalogues.backbones import SDXL
from alignment.contracts.evaluation import ModelRef

TEXT_STATES = "states_LD"
POOLED = "pooled_D"
TIME_IDS = "time_ids_K"
FAMILY = Family(
    pipeline="StableDiffusionXLPipeline",
    denoiser=UNet2DConditionModel,
    part="unet",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    uses_ddim=True,
    left_out={"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
)


class SDXLBackbone(DiffusersModel):
    """One base model in a local folder; see `alignment.backbones.interface.Backbone`.

    Source: Podell et al. 2023, arXiv:2307.01952, sections 2.2 (sizes and crops) and 2.4 (VAE).
    Raises ValueError when the folder lacks a part (a refiner lacks the first text encoder), or its scheduler predicts
    something other than epsilon or v.
    """

    family: ClassVar[Family] = FAMILY
    schedule: NoiseSchedule

    def __init__(self, base_dir: Path, params: SDXL, device: torch.device | None = None) -> None:
        super().__init__(base_dir, params.resolution, device)
        self.schedule = load_noise_schedule(base_dir)

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Return the penultimate states of both text encoders side by side, and the second's pooled projection."""
        return _text_states(self.text_pipeline, captions, self.device)

    def image_conditioning(self, framings: Sequence[Framing]) -> Conditioning:
        """Return the true size and crop of each image, as in the base's training.

        MaPO's authors do the same; the authors of Diffusion-DPO use (R, R, 0, 0, R, R) for every image.
        """
        rows = [(f.original_height, f.original_width, f.crop_top, f.crop_left, f.height, f.width) for f in framings]
        return {TIME_IDS: torch.tensor(rows, dtype=torch.float32)}

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the UNet's prediction: noise or v, by the schedule's prediction type."""
        prediction: Tensor = denoiser(
            noisy_BCHW,
            timesteps_B,
            encoder_hidden_states=conditioning[TEXT_STATES],
            added_cond_kwargs={"text_embeds": conditioning[POOLED], "time_ids": conditioning[TIME_IDS]},
            return_dict=False,
        )[0]
        return prediction


@torch.no_grad()
def _text_states(pipeline: Any, captions: Sequence[str], device: torch.device) -> Conditioning:
    """Return text states of captions, float32 on the CPU, with L the tokenizer's maximum. Longer captions are cut.

    The empty caption is all zeros if the pipeline's `force_zeros_for_empty_prompt` is true (SDXL 1.0), because sampling
    then uses zeros as the negative prompt; so a dropped caption trains what sampling uses. The scripts of
    Diffusion-DPO's authors and of diffusers encode the empty text instead.
    """
    states_BLD, _, pooled_BD, _ = pipeline.encode_prompt(
        list(captions), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if pipeline.config.force_zeros_for_empty_prompt:
        kept_B = torch.tensor([caption != "" for caption in captions], device=states_BLD.device)
        states_BLD = states_BLD * kept_B[:, None, None]
        pooled_BD = pooled_BD * kept_B[:, None]
    return {TEXT_STATES: states_BLD.float().cpu(), POOLED: pooled_BD.float().cpu()}


class SDXLDrawing(StableDiffusionDrawing):
    """Stable Diffusion XL, conditioned on the image's own size without crop."""

    arguments: ClassVar[dict[str, str]] = {TEXT_STATES: "prompt_embeds", POOLED: "pooled_prompt_embeds"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return _text_states(self.pipeline, prompts, self.pipeline.device)


def load_pipeline(base_dir: Path, model: ModelRef, weights_dir: Path | None) -> Any:
    """Load the base with a model's weights, ready to sample with DDIM, without watermark; see `load_model`."""
    return load_model(FAMILY, base_dir, model, weights_dir)
