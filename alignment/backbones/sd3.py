"""Stable Diffusion 3 and 3.5 in diffusers' folder layout.

B counts images or captions, C H W are channels, height and width, L tokens, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from alignment.backbones.diffusers_model import DiffusersModel, Family, load_model
from alignment.backbones.drawing import GuidedDrawing
from alignment.backbones.flow_matching import FlowMatchingSchedule
from alignment.backbones.flow_scheduler import load_flow_schedule
from alignment.backbones.interface import Conditioning
from alignment.catalogues.backbones import StableDiffusion3
from alignment.contracts.evaluation import ModelRef

TEXT_STATES = "states_LD"
POOLED = "pooled_D"
T5_TOKENS = 256
"""Length that the pipeline pads or cuts a caption to for T5."""
TOKEN_SIDE = 16
"""Side of a denoiser token in pixels: 8 from the VAE times patches of 2."""
FAMILY = Family(
    pipeline="StableDiffusion3Pipeline",
    denoiser=SD3Transformer2DModel,
    part="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
    optional=("text_encoder_3", "tokenizer_3"),
    uses_ddim=False,
    left_out={"feature_extractor": None, "image_encoder": None},
)


class StableDiffusion3Backbone(DiffusersModel):
    """One base model in a local folder; see `alignment.backbones.interface.Backbone`.

    Source: Esser et al. 2024, arXiv:2403.03206. T5 may be absent by model_index.json; its states are then zeros.
    Raises ValueError when the folder lacks a part, or its scheduler is not the flow-matching one.
    """

    family: ClassVar[Family] = FAMILY
    schedule: FlowMatchingSchedule

    def __init__(self, base_dir: Path, params: StableDiffusion3, device: torch.device | None = None) -> None:
        super().__init__(base_dir, params.resolution, device)
        self.schedule = load_flow_schedule(base_dir, (params.resolution // TOKEN_SIDE) ** 2)

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Return the penultimate states of both CLIPs side by side, followed by T5's; and both pooled projections.

        States are rounded to bfloat16, the usual dtype for T5, because float32 needs 5 MB per caption.
        """
        encoded = _text_states(self.text_pipeline, captions, self.device)
        return {TEXT_STATES: encoded[TEXT_STATES].bfloat16(), POOLED: encoded[POOLED]}

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the velocity, noise - image."""
        prediction: Tensor = denoiser(
            hidden_states=noisy_BCHW,
            timestep=timesteps_B,
            encoder_hidden_states=conditioning[TEXT_STATES].to(noisy_BCHW.dtype),
            pooled_projections=conditioning[POOLED],
            return_dict=False,
        )[0]
        return prediction


@torch.no_grad()
def _text_states(pipeline: Any, captions: Sequence[str], device: torch.device) -> Conditioning:
    """Return text states of captions, float32 on the CPU. Longer captions are cut; the empty caption is encoded too.

    The base was trained with each encoder's states set to zero at random. Its pipeline uses the empty text as negative
    prompt, and so does training here.
    """
    states_BLD, _, pooled_BD, _ = pipeline.encode_prompt(
        list(captions),
        None,
        None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        max_sequence_length=T5_TOKENS,
    )
    return {TEXT_STATES: states_BLD.float().cpu(), POOLED: pooled_BD.float().cpu()}


class StableDiffusion3Drawing(GuidedDrawing):
    """Stable Diffusion 3 and 3.5."""

    arguments: ClassVar[dict[str, str]] = {TEXT_STATES: "prompt_embeds", POOLED: "pooled_prompt_embeds"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return _text_states(self.pipeline, prompts, self.pipeline.device)

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.transformer.config.in_channels, side, side


def load_pipeline(base_dir: Path, model: ModelRef, weights_dir: Path | None) -> Any:
    """Load the base with a model's weights, ready to sample with the base's flow scheduler; see `load_model`."""
    return load_model(FAMILY, base_dir, model, weights_dir)
