"""Stable Diffusion 1.x and 2.x in diffusers' folder layout, safetensors only.

B counts images or captions, C H W are channels, height and width, L tokens, D features.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from alignment.backbones.catalogue import StableDiffusion
from alignment.backbones.interface import Conditioning, LatentMoments
from alignment.backbones.noise_schedule import NoiseSchedule, checked_prediction_type
from alignment.contracts import FullFineTune, Lora, ModelRef
from alignment.durable import files_below
from alignment.tensor_files import write_tensors

LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_METADATA = "lora_adapter_metadata"
TEXT_STATES = "states_LD"


class StableDiffusionBackbone:
    """One base model in a local folder; see `alignment.backbones.interface.Backbone`.

    Raises ValueError when the folder lacks a part, or its scheduler predicts something else than epsilon or v.
    """

    def __init__(self, base_dir: Path, params: StableDiffusion, device: torch.device | None = None) -> None:
        require_parts(base_dir)
        self.base_dir = base_dir
        self.params = params
        self.device = device or torch.device("cpu")
        self.schedule = _load_schedule(base_dir)

    @cached_property
    def _vae(self) -> AutoencoderKL:
        return _frozen(AutoencoderKL.from_pretrained(self.base_dir / "vae", dtype=torch.float32, **_LOCAL), self.device)

    @cached_property
    def _text_encoder(self) -> CLIPTextModel:
        return _frozen(
            CLIPTextModel.from_pretrained(self.base_dir / "text_encoder", dtype=torch.float32, **_LOCAL), self.device
        )

    @cached_property
    def _tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.base_dir / "tokenizer", local_files_only=True)

    @torch.no_grad()
    def encode_images(self, pixels_BCHW: Tensor) -> LatentMoments:
        """RGB in [-1, 1], float32, to latent moments on the CPU, times the VAE's scaling factor."""
        gaussian = self._vae.encode(pixels_BCHW.to(self.device)).latent_dist
        scale = self._vae.config.scaling_factor
        return LatentMoments((gaussian.mean * scale).float().cpu(), (gaussian.std * scale).float().cpu())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of the latent of a training image."""
        unet = json.loads((self.base_dir / "unet" / "config.json").read_text(encoding="utf-8"))
        vae = json.loads((self.base_dir / "vae" / "config.json").read_text(encoding="utf-8"))
        side = self.params.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        return int(unet["in_channels"]), side, side

    @torch.no_grad()
    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """RGB in [0, 1], float32 on the CPU; what is not finite stays so."""
        scaled_BCHW = latents_BCHW.to(self.device) / self._vae.config.scaling_factor
        pixels_BCHW: Tensor = self._vae.decode(scaled_BCHW, return_dict=False)[0]
        return (pixels_BCHW / 2 + 0.5).clamp(0, 1).float().cpu()

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """The last hidden states of the text encoder, L the tokenizer's longest; longer captions are cut."""
        longest = min(self._tokenizer.model_max_length, self._text_encoder.config.max_position_embeddings)
        tokens = self._tokenizer(
            list(captions), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        states_BLD = self._text_encoder(tokens.input_ids.to(self.device))[0]
        return {TEXT_STATES: states_BLD.float().cpu()}

    def load_denoiser(self) -> nn.Module:
        """A fresh copy of the base UNet, float32, every weight frozen, in evaluation mode."""
        unet = UNet2DConditionModel.from_pretrained(self.base_dir / "unet", dtype=torch.float32, **_LOCAL)
        return cast(nn.Module, _frozen(unet, self.device))

    def predict(
        self, denoiser: nn.Module, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The UNet's answer: noise or v, as the schedule says."""
        states_BLD = conditioning[TEXT_STATES]
        answer: Tensor = denoiser(noisy_BCHW, timesteps_B, encoder_hidden_states=states_BLD, return_dict=False)[0]
        return answer

    def attach(self, denoiser: nn.Module, tuning: Lora | FullFineTune, seed: int) -> None:
        """Unfreeze every weight, or add adapters: A Gaussian from `seed`, B zero, so that they begin as the identity.

        Raises ValueError when no module has one of the adapters' target names.
        """
        if isinstance(tuning, FullFineTune):
            denoiser.requires_grad_(True)
            return
        config = LoraConfig(
            r=tuning.rank,
            lora_alpha=tuning.alpha,
            target_modules=list(tuning.target_modules),
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            cast(Any, denoiser).add_adapter(config)

    def set_adapter(self, denoiser: nn.Module, *, enabled: bool) -> None:
        """Switch the LoRA on or off, in place."""
        unet = cast(Any, denoiser)
        if enabled:
            unet.enable_adapters()
        else:
            unet.disable_adapters()

    def save_weights(self, denoiser: nn.Module, tuning: Lora | FullFineTune, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, or `unet/` as save_pretrained writes it; equal weights, equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(tuning, FullFineTune):
            _save_unet(cast(UNet2DConditionModel, denoiser), folder / "unet")
        else:
            _save_lora(cast(UNet2DConditionModel, denoiser), folder)

    def sampler(self, denoiser: nn.Module, device: torch.device) -> "StableDiffusionGridSampler":
        """A pipeline around this very denoiser; VAE and text encoder load here."""
        pipeline = _pipeline(self.base_dir, unet=denoiser)
        pipeline.to(device)
        return StableDiffusionGridSampler(pipeline, self.params.resolution)


@dataclass(frozen=True)
class StableDiffusionGridSampler:
    """Draws images for the sample grid with deterministic DDIM."""

    pipeline: StableDiffusionPipeline
    resolution: int

    def draw(self, prompt: str, seed: int, steps: int, *, guidance_scale: float) -> Image.Image:
        """One image; its noise comes from a CPU generator, so the device does not matter."""
        image = self.pipeline(
            prompt,
            height=self.resolution,
            width=self.resolution,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return cast(Image.Image, image)


def load_pipeline(base_dir: Path, model: ModelRef, weights_dir: Path | None) -> StableDiffusionPipeline:
    """The base with a model's weights on it, ready to sample: float32, on the CPU, DDIM, no safety checker.

    `weights_dir` is the weights/ folder of a TrainResult; None for the base itself. Raises ValueError when the base or
    the weights lack a file.
    """
    require_parts(base_dir)
    if model.kind == "base":
        return _pipeline(base_dir)
    if weights_dir is None:
        raise ValueError(f"A {model.kind} model needs its weights folder; only the base itself can do without.")
    if model.kind == "full":
        _require(weights_dir, [_WeightFile("unet/config.json"), _WeightFile("unet/diffusion_pytorch_model")])
        return _pipeline(
            base_dir,
            unet=UNet2DConditionModel.from_pretrained(weights_dir / "unet", dtype=torch.float32, **_LOCAL),
        )
    _require(weights_dir, [_WeightFile(LORA_FILE)])
    pipeline = _pipeline(base_dir)
    pipeline.load_lora_weights(weights_dir, weight_name=LORA_FILE, use_safetensors=True, local_files_only=True)
    return pipeline


# --- files ----------------------------------------------------------------------------------------------------------

_LOCAL: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}


@dataclass(frozen=True)
class _WeightFile:
    """A file that must be there. A name without suffix stands for safetensors weights, in one file or in parts."""

    name: str

    def present(self, folder: Path) -> bool:
        if Path(self.name).suffix:
            return (folder / self.name).is_file()
        return any((folder / f"{self.name}{end}").is_file() for end in (".safetensors", ".safetensors.index.json"))

    def __str__(self) -> str:
        return self.name if Path(self.name).suffix else f"{self.name}.safetensors"


_PARTS = [
    _WeightFile(name)
    for name in (
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model",
        "vae/config.json",
        "vae/diffusion_pytorch_model",
        "text_encoder/config.json",
        "text_encoder/model",
        "scheduler/scheduler_config.json",
    )
]
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def require_parts(base_dir: Path) -> None:
    """ValueError naming every file that a Stable Diffusion folder needs and this one lacks."""
    tokenizer = base_dir / "tokenizer"
    complete = any(all((tokenizer / name).is_file() for name in names) for names in _TOKENIZER_FILES)
    extra = [] if complete else ["tokenizer/tokenizer.json (or vocab.json with merges.txt)"]
    _require(base_dir, _PARTS, extra)


def _require(folder: Path, parts: list[_WeightFile], missing_already: Sequence[str] = ()) -> None:
    missing = [str(part) for part in parts if not part.present(folder)] + list(missing_already)
    if missing:
        raise ValueError(
            f"The model folder {folder} lacks {', '.join(missing)}. It needs diffusers' layout with "
            "safetensors weights; download or convert it again (save_pretrained with safe_serialization=True)."
        )


def _load_schedule(base_dir: Path) -> NoiseSchedule:
    """The schedule the base was trained with; DDPM's reading of the configuration is the common one."""
    scheduler = DDPMScheduler.from_pretrained(base_dir / "scheduler", local_files_only=True)
    origin = str(base_dir / "scheduler" / "scheduler_config.json")
    return NoiseSchedule(
        scheduler.alphas_cumprod.float(), checked_prediction_type(str(scheduler.config.prediction_type), origin)
    )


def _pipeline(base_dir: Path, unet: nn.Module | None = None) -> StableDiffusionPipeline:
    replaced = {} if unet is None else {"unet": unet}
    pipeline = StableDiffusionPipeline.from_pretrained(
        base_dir,
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
        dtype=torch.float32,
        **replaced,
        **_LOCAL,
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _frozen(module: Any, device: torch.device) -> Any:
    module.requires_grad_(False)
    module.eval()
    return module.to(device)


def _save_unet(unet: UNet2DConditionModel, folder: Path) -> None:
    """save_pretrained, without the path the base came from, and readable by everybody."""
    unet.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in files_below(folder):
        path.chmod(0o644)


def _save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """diffusers' LoRA file, then the same tensors and metadata again in a fixed order."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        StableDiffusionPipeline.save_lora_weights(
            scratch,
            unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
            weight_name=LORA_FILE,
            safe_serialization=True,
        )
        with safe_open(Path(scratch) / LORA_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata())
        metadata[LORA_METADATA] = _ordered(metadata[LORA_METADATA])
        write_tensors(Path(scratch) / "ordered", tensors, metadata)
        shutil.move(Path(scratch) / "ordered", folder / LORA_FILE)


def _ordered(metadata: str) -> str:
    """The adapter's configuration with lists that stand for sets sorted."""
    values = json.loads(metadata)
    return json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in values.items()}, sort_keys=True)
