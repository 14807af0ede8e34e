"""Stable Diffusion 1.x and 2.x in diffusers' folder layout.

B counts images or captions, C H W are channels, height and width, L tokens, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from alignment.backbones.diffusers_model import DiffusersModel, Family, load_model
from alignment.backbones.drawing import GuidedDrawing
from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import NoiseSchedule, checked_prediction_type
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.evaluation import ModelRef

TEXT_STATES = "states_LD"
FAMILY = Family(
    pipeline="StableDiffusionPipeline",
    denoiser=UNet2DConditionModel,
    part="unet",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    uses_ddim=True,
    left_out={"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None},
)


class StableDiffusionBackbone(DiffusersModel):
    """One base model in a local folder; see `alignment.backbones.interface.Backbone`.

    Raises ValueError when the folder lacks a part, or its scheduler predicts something other than epsilon or v.
    """

    family: ClassVar[Family] = FAMILY

    def __init__(self, base_dir: Path, params: StableDiffusion, device: torch.device | None = None) -> None:
        super().__init__(base_dir, params.resolution, device)
        self.schedule = load_noise_schedule(base_dir)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Return the last hidden states of the text encoder, with L the tokenizer's maximum; longer ones are cut."""
        tokenizer, encoder = self.text_pipeline.tokenizer, self.text_pipeline.text_encoder
        longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(
            list(captions), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        states_BLD = encoder(tokens.input_ids.to(self.device))[0]
        return {TEXT_STATES: states_BLD.float().cpu()}

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the UNet's prediction: noise or v, by the schedule's prediction type."""
        states_BLD = conditioning[TEXT_STATES]
        prediction: Tensor = denoiser(noisy_BCHW, timesteps_B, encoder_hidden_states=states_BLD, return_dict=False)[0]
        return prediction


class StableDiffusionDrawing(GuidedDrawing):
    """Stable Diffusion 1.x and 2.x; see `alignment.backbones.drawing.Drawing`."""

    arguments: ClassVar[dict[str, str]] = {TEXT_STATES: "prompt_embeds"}
    steps: ClassVar[dict[str, Any]] = {"eta": 0.0}
    """eta = 0: DDIM without added noise."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        states_BLD, _ = self.pipeline.encode_prompt(
            list(prompts), self.pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {TEXT_STATES: states_BLD}

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.unet.config.in_channels, side, side


def load_pipeline(base_dir: Path, model: ModelRef, weights_dir: Path | None) -> Any:
    """Load the base with a model's weights, ready to sample with DDIM, without safety checker; see `load_model`."""
    return load_model(FAMILY, base_dir, model, weights_dir)


def load_noise_schedule(base_dir: Path) -> NoiseSchedule:
    """Load the schedule that the base was trained with, as DDPMScheduler reads its configuration."""
    scheduler = DDPMScheduler.from_pretrained(base_dir / "scheduler", local_files_only=True)
    origin = str(base_dir / "scheduler" / "scheduler_config.json")
    return NoiseSchedule(
        scheduler.alphas_cumprod.float(), checked_prediction_type(str(scheduler.config.prediction_type), origin)
    )
