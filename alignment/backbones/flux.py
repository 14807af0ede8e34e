"""FLUX.1 in diffusers' folder layout.

B counts images or captions, C H W are channels, height and width of a latent, L tokens, D features, N the tokens of an
image. A token is a patch of 2 x 2 latent pixels.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from alignment.backbones.diffusers_model import DiffusersModel, Family, load_model
from alignment.backbones.flow_matching import TIMESTEPS_PER_UNIT, FlowMatchingSchedule
from alignment.backbones.flow_scheduler import load_flow_schedule
from alignment.backbones.interface import Conditioning
from alignment.catalogues.backbones import Flux
from alignment.contracts.evaluation import ModelRef, Sampler

TEXT_STATES = "states_LD"
POOLED = "pooled_D"
T5_TOKENS = 512
"""Length that the pipeline pads or cuts a caption to."""
TOKEN_SIDE = 16
"""Side of a denoiser token in pixels: 8 from the VAE times patches of 2."""
FAMILY = Family(
    pipeline="FluxPipeline",
    denoiser=FluxTransformer2DModel,
    part="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    uses_ddim=False,
    left_out={"feature_extractor": None, "image_encoder": None},
)


class FluxBackbone(DiffusersModel):
    """One base model in a local folder; see `alignment.backbones.interface.Backbone`.

    Source: the FLUX.1 pipeline of diffusers; no paper describes its training. Latents are stored as CHW and packed only
    for the denoiser. Raises ValueError when the folder lacks a part, or its scheduler is not the flow-matching one.
    """

    family: ClassVar[Family] = FAMILY
    schedule: FlowMatchingSchedule

    def __init__(self, base_dir: Path, params: Flux, device: torch.device | None = None) -> None:
        super().__init__(base_dir, params.resolution, device)
        self.schedule = load_flow_schedule(base_dir, (params.resolution // TOKEN_SIDE) ** 2)
        config = json.loads((base_dir / FAMILY.part / "config.json").read_text(encoding="utf-8"))
        self.guidance = params.guidance if config.get("guidance_embeds", False) else None

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Return T5's states, in bfloat16 because float32 needs 8 MB per caption, and CLIP's pooled state."""
        encoded = _text_states(self.text_pipeline, captions, self.device)
        return {TEXT_STATES: encoded[TEXT_STATES].bfloat16(), POOLED: encoded[POOLED]}

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the velocity, noise - image. A distilled transformer gets the recipe's guidance."""
        _, _, height, width = noisy_BCHW.shape
        states_BLD = conditioning[TEXT_STATES].to(noisy_BCHW.dtype)
        prediction_BND: Tensor = denoiser(
            hidden_states=_pack(noisy_BCHW),
            timestep=timesteps_B.to(noisy_BCHW.dtype) / TIMESTEPS_PER_UNIT,
            guidance=None if self.guidance is None else noisy_BCHW.new_full((len(noisy_BCHW),), self.guidance),
            pooled_projections=conditioning[POOLED],
            encoder_hidden_states=states_BLD,
            txt_ids=states_BLD.new_zeros(states_BLD.shape[1], 3),
            img_ids=_positions(height // 2, width // 2, noisy_BCHW.device, noisy_BCHW.dtype),
            return_dict=False,
        )[0]
        return _unpack(prediction_BND, height, width)


def _pack(latents_BCHW: Tensor) -> Tensor:
    """Pack latents into a sequence of 2 x 2 patches, row by row: B, N, 4 C. Order in a token: channel, row, column."""
    batch, channels, height, width = latents_BCHW.shape
    patches = latents_BCHW.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, channels * 4)


def _unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """Invert `_pack`, for latents of this height and width."""
    batch, _, features = tokens_BND.shape
    patches = tokens_BND.reshape(batch, height // 2, width // 2, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, features // 4, height, width)


@functools.lru_cache(maxsize=64)
def _positions(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return N3: zero, row and column of each token of an image. They are kept: a step waits for every copy to a GPU.

    Callers must not change them.
    """
    # Outside inference mode, whose tensors a later pass with a gradient could not use.
    with torch.inference_mode(mode=False):
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
        return torch.nn.functional.pad(grid, (1, 0)).float().to(device, dtype)


@torch.no_grad()
def _text_states(pipeline: Any, captions: Sequence[str], device: torch.device) -> Conditioning:
    """Return text states of captions, float32 on the CPU. Longer captions are cut."""
    states_BLD, pooled_BD, _ = pipeline.encode_prompt(
        list(captions), device=device, num_images_per_prompt=1, max_sequence_length=T5_TOKENS
    )
    return {TEXT_STATES: states_BLD.float().cpu(), POOLED: pooled_BD.float().cpu()}


class FluxDrawing:
    """FLUX.1. Guidance is an input of the denoiser; there is no negative prompt."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """As `Drawing.encode`."""
        return _text_states(self.pipeline, prompts, self.pipeline.device)

    def noise_shape(self, resolution: int) -> tuple[int, int, int]:
        """As `Drawing.noise_shape`; before packing."""
        side = resolution // self.pipeline.vae_scale_factor
        return self.pipeline.transformer.config.in_channels // 4, side, side

    def draw(
        self, noise_BCHW: Tensor, prompts: Conditioning, empty: Conditioning, *, sampler: Sampler, resolution: int
    ) -> Tensor:
        """As `Drawing.draw`."""
        del empty
        images_BCHW = self.pipeline(
            prompt_embeds=prompts[TEXT_STATES].to(noise_BCHW),
            pooled_prompt_embeds=prompts[POOLED].to(noise_BCHW),
            latents=_pack(noise_BCHW),
            height=resolution,
            width=resolution,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance_scale,
            output_type="pt",
        ).images
        return torch.as_tensor(images_BCHW)


def load_pipeline(base_dir: Path, model: ModelRef, weights_dir: Path | None) -> Any:
    """Load the base with a model's weights, ready to sample with the base's flow scheduler; see `load_model`."""
    return load_model(FAMILY, base_dir, model, weights_dir)
