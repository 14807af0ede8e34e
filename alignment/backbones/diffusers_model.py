"""Shared code of the families in diffusers' folder layout: files, VAE, adapters, written weights, pipelines.

It reads safetensors and local files only. B counts images, C H W are channels, height and width.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from alignment.backbones.drawing import drawing_of, to_images
from alignment.backbones.frozen_weights import load_frozen
from alignment.backbones.interface import Conditioning, Framing, LatentMoments
from alignment.backbones.model_files import (
    LORA_FILE,
    LORA_METADATA,
    WeightFile,
    absent_parts,
    require_files,
    require_parts,
)
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.contracts.precision import FrozenWeights
from alignment.contracts.training import FullFineTune, Lora
from alignment.files.durable import files_below
from alignment.files.tensors import write_tensors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LOCAL: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}


@dataclass(frozen=True)
class Family:
    """The parts of a model family, as diffusers' classes and folder names."""

    pipeline: str
    """Name of diffusers' pipeline class. It is imported when a pipeline is loaded, because training may need none."""
    denoiser: Any
    """Class of the part that is trained."""
    part: Literal["unet", "transformer"]
    """Folder of the denoiser, and its name in the pipeline."""
    text_encoders: tuple[str, ...]
    tokenizers: tuple[str, ...]
    uses_ddim: bool
    """True to sample with deterministic DDIM; false to sample with the base's scheduler."""
    optional: tuple[str, ...] = ()
    """Encoders and tokenizers that a base may lack if its model_index.json states null for them."""
    left_out: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that keep the pipeline from loading unused parts."""

    @property
    def pipeline_class(self) -> Any:
        """Import and return the pipeline class."""
        return resolve(f"diffusers:{self.pipeline}")


class DiffusersModel:
    """Shared part of a backbone; see `alignment.backbones.interface.Backbone`. A family adds text and denoiser.

    Raises ValueError when the folder lacks a part.
    """

    family: ClassVar[Family]

    def __init__(self, base_dir: Path, resolution: int, device: torch.device | None) -> None:
        _require_base(self.family, base_dir)
        diffusers_logging.disable_progress_bar()
        self.base_dir = base_dir
        self.resolution = resolution
        self.device = device or torch.device("cpu")
        self.encoder_dtype = torch.float32
        self._grid_texts: dict[str, Conditioning] = {}

    @cached_property
    def vae(self) -> "AutoencoderKL":
        """The VAE in the encoders' dtype. fp16 is not among them, because SDXL's overflows in it."""
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(self.base_dir / "vae", dtype=self.encoder_dtype, **LOCAL)
        return _frozen(vae, self.device)

    @cached_property
    def text_pipeline(self) -> Any:
        """The family's pipeline with only tokenizers and text encoders, in the encoders' dtype."""
        return load_texts(self.family, self.base_dir, self.device, self.encoder_dtype)

    def release_text_encoders(self) -> None:
        """Free the memory of the text encoders. They load again when a caption is encoded."""
        self.__dict__.pop("text_pipeline", None)

    @torch.no_grad()
    def encode_images(self, pixels_BCHW: Tensor) -> LatentMoments:
        """Encode RGB in [-1, 1] to latent moments, float32 on the CPU, in the denoiser's unit."""
        parts = [self._moments(piece_BCHW) for piece_BCHW in torch.split(pixels_BCHW, self._at_once(LARGE_ENCODED))]
        means, deviations = zip(*parts, strict=True)
        return LatentMoments(torch.cat(means).cpu(), torch.cat(deviations).cpu())

    def _moments(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        own_BCHW = pixels_BCHW.to(self.device, self.encoder_dtype, non_blocking=True)
        with torch.autocast(self.device.type, enabled=False):
            gaussian = cast(Any, self.vae).encode(own_BCHW).latent_dist
        # In bf16 the deviation is computed from the rounded logarithm of the variance, but not in bf16.
        mean_BCHW, std_BCHW = gaussian.mean.float(), torch.exp(0.5 * gaussian.logvar.float())
        shift_1C11, scale_1C11 = _latent_unit(self.vae)
        return (mean_BCHW - shift_1C11) * scale_1C11, std_BCHW * scale_1C11

    def _at_once(self, large: int) -> int:
        """Return the number of images in one pass of the VAE: `large` of large images, any number of others."""
        return large if self.resolution >= LARGE_FROM else 1 << 30

    def image_conditioning(self, framings: Sequence[Framing]) -> Conditioning:
        """Return nothing: most families condition on captions alone."""
        del framings
        return {}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W of the latent of a training image."""
        vae = json.loads((self.base_dir / "vae" / "config.json").read_text(encoding="utf-8"))
        side = self.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        return int(vae["latent_channels"]), side, side

    @torch.no_grad()
    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Decode latents in the denoiser's unit to RGB in [0, 1], float32 on the CPU. Values not finite stay so."""
        shift_1C11, scale_1C11 = _latent_unit(self.vae)
        with torch.autocast(self.device.type, enabled=False):
            own_BCHW = (latents_BCHW.float().to(self.device) / scale_1C11 + shift_1C11).to(self.encoder_dtype)
            pieces = [
                cast(Any, self.vae).decode(piece_BCHW, return_dict=False)[0]
                for piece_BCHW in torch.split(own_BCHW, self._at_once(LARGE_DECODED))
            ]
        return (torch.cat(pieces).float() / 2 + 0.5).clamp(0, 1).cpu()

    def load_denoiser(self, device: torch.device | None = None, storage: FrozenWeights = "fp32") -> nn.Module:
        """Load a new copy of the base denoiser with every weight frozen, in evaluation mode.

        It is on `device`, by default on the backbone's; its matrices are in `storage`.
        """
        folder, device = self.base_dir / self.family.part, device or self.device
        if storage != "fp32":
            return cast(nn.Module, _frozen(load_frozen(self.family.denoiser, folder, storage, device), device))
        denoiser = self.family.denoiser.from_pretrained(folder, dtype=torch.float32, **LOCAL)
        return cast(nn.Module, _frozen(denoiser, device))

    def attach(self, denoiser: nn.Module, tuning: Lora | FullFineTune, seed: int) -> None:
        """Unfreeze every weight, or add adapters: A Gaussian from `seed`, B zero, so they start as the identity.

        Raises ValueError when no module has one of the adapters' target names.
        """
        if isinstance(tuning, FullFineTune):
            denoiser.requires_grad_(True)
            return
        from peft import LoraConfig

        config = LoraConfig(
            r=tuning.rank,
            lora_alpha=tuning.alpha,
            target_modules=list(tuning.target_modules),
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            cast(Any, denoiser).add_adapter(config)
        for weight in denoiser.parameters():
            if weight.requires_grad:  # the library gives adapters the dtype of the base's matrices
                weight.data = weight.data.float()

    def set_adapter(self, denoiser: nn.Module, *, enabled: bool) -> None:
        """Switch the LoRA on or off, in place."""
        if enabled:
            cast(Any, denoiser).enable_adapters()
        else:
            cast(Any, denoiser).disable_adapters()

    def save_weights(self, denoiser: nn.Module, tuning: Lora | FullFineTune, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, or the denoiser's folder as save_pretrained writes it.

        Equal weights give equal bytes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(tuning, FullFineTune):
            _save_denoiser(denoiser, folder / self.family.part)
        else:
            _save_lora(self.family, denoiser, folder)

    def sampler(self, denoiser: nn.Module, device: torch.device, prompts: Sequence[str]) -> "_PipelineGridSampler":
        """Return a sampler of these prompts that uses this denoiser, not a copy.

        The VAE loads here, and the text encoders for prompts whose states are not kept from an earlier sampler.
        """
        new = [text for text in dict.fromkeys(["", *prompts]) if text not in self._grid_texts]
        if new:
            texts = drawing_of(load_texts(self.family, self.base_dir, device))
            self._grid_texts |= {text: texts.encode([text]) for text in new}
            del texts
        pipeline = _sampling_pipeline(
            self.family, self.base_dir, **{self.family.part: denoiser}, **_without_texts(self.family)
        )
        stored = {weight.dtype for weight in denoiser.parameters()}
        half = next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in stored), None)
        # The denoiser stays: moving it would part its gradients from DDP's buckets, of which they are views.
        pipeline.vae.to(device)
        return _PipelineGridSampler(pipeline, self.resolution, self._grid_texts, half)


LARGE_FROM = 1024
"""Pixels per side from which the VAE processes few images at a time: one of 1024 px needs 2 GB in float32."""
LARGE_ENCODED = 4
LARGE_DECODED = 1


@dataclass(frozen=True)
class _PipelineGridSampler:
    """Generate images for the sample grid with the family's pipeline."""

    pipeline: Any
    resolution: int
    texts: Mapping[str, Conditioning]
    """Text states of the prompts and of the empty one."""
    half: torch.dtype | None
    """Autocast dtype, if some weights of the denoiser are stored in it: they do not multiply float32 latents."""

    def draw(self, prompt: str, seed: int, steps: int, *, guidance_scale: float) -> Image.Image:
        """Generate one image. The noise comes from a CPU generator, so it does not depend on the device."""
        drawing = drawing_of(self.pipeline)
        noise_CHW = torch.randn(
            drawing.noise_shape(self.resolution), generator=torch.Generator("cpu").manual_seed(seed)
        )
        with torch.autocast(self.pipeline.device.type, dtype=self.half, enabled=self.half is not None):
            images_BCHW = drawing.draw(
                noise_CHW[None].to(self.pipeline.device),
                self.texts[prompt],
                self.texts[""],
                sampler=Sampler(steps=steps, guidance_scale=guidance_scale),
                resolution=self.resolution,
            )
        return to_images(images_BCHW.float().cpu())[0]


def _latent_unit(vae: "AutoencoderKL") -> tuple[Tensor | float, Tensor | float]:
    """Return shift and scale: denoiser's latent = (VAE's latent - shift) * scale. Each pipeline inverts it to decode.

    Both are numbers, or tensors 1C11 if the VAE's configuration states mean and deviation per channel (as in some SDXL
    models).
    """
    config = vae.config
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    if means is not None and deviations is not None:
        means_1C11 = torch.tensor(means, device=vae.device).reshape(1, -1, 1, 1)
        return means_1C11, config.scaling_factor / torch.tensor(deviations, device=vae.device).reshape(1, -1, 1, 1)
    return config.get("shift_factor") or 0.0, config.scaling_factor


# --- pipelines --------------------------------------------------------------------------------------------------------


def load_model(
    family: Family, base_dir: Path, model: ModelRef, weights_dir: Path | None, *, with_texts: bool = True
) -> Any:
    """Load the base's pipeline with a model's weights, ready to sample: float32, on the CPU.

    `weights_dir` is the weights/ folder of a TrainResult; None for the base itself. `with_texts`: with the text
    encoders. Raises ValueError when the base or the weights lack a file.
    """
    _require_base(family, base_dir)
    left_out = {} if with_texts else _without_texts(family)
    if model.kind == "base":
        return _sampling_pipeline(family, base_dir, **left_out)
    if weights_dir is None:
        raise ValueError(
            f"A {model.kind} model needs its weights folder, but got None. Pass the weights/ folder of its TrainResult."
        )
    if model.kind == "full":
        folder = weights_dir / family.part
        names = (f"{family.part}/config.json", f"{family.part}/diffusion_pytorch_model")
        require_files(weights_dir, [WeightFile(name) for name in names])
        denoiser = family.denoiser.from_pretrained(folder, dtype=torch.float32, **LOCAL)
        return _sampling_pipeline(family, base_dir, **{family.part: denoiser}, **left_out)
    require_files(weights_dir, [WeightFile(LORA_FILE)])
    pipeline = _sampling_pipeline(family, base_dir, **left_out)
    pipeline.load_lora_weights(weights_dir, weight_name=LORA_FILE, **LOCAL)
    return pipeline


def _require_base(family: Family, base_dir: Path) -> None:
    """Check a base folder. ValueError naming every file that the family needs and the folder lacks."""
    absent = absent_parts(base_dir) & set(family.optional)
    require_parts(
        base_dir,
        family.part,
        text_encoders=[name for name in family.text_encoders if name not in absent],
        tokenizers=[name for name in family.tokenizers if name not in absent],
    )


def _load_parts(family: Family, base_dir: Path, **replaced: Any) -> Any:
    """Load the family's pipeline, float32. `replaced` parts are used as they are; a part that is None is left out."""
    parts = {**family.left_out, **dict.fromkeys(absent_parts(base_dir) & set(family.optional)), **replaced}
    diffusers_logging.disable_progress_bar()
    return family.pipeline_class.from_pretrained(base_dir, dtype=torch.float32, **parts, **LOCAL)


def _sampling_pipeline(family: Family, base_dir: Path, **replaced: Any) -> Any:
    """Call `_load_parts`, then set the sampling scheduler and turn off the progress bar."""
    pipeline = _load_parts(family, base_dir, **replaced)
    if family.uses_ddim:
        from diffusers import DDIMScheduler

        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_texts(family: Family, base_dir: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Load the family's pipeline with only tokenizers and text encoders."""
    pipeline = _load_parts(family, base_dir, **{family.part: None, "vae": None})
    for name in family.text_encoders:
        encoder = getattr(pipeline, name)
        if encoder is not None:
            _frozen(encoder.to(dtype), device)
    if absent_parts(base_dir) & set(family.optional):
        # In place of an absent encoder's states the pipeline uses zeros, of the width that the denoiser states.
        pipeline.register_modules(**{family.part: _without_weights(family, base_dir)})
    return pipeline


def _without_texts(family: Family) -> dict[str, None]:
    return dict.fromkeys((*family.text_encoders, *family.tokenizers))


def _without_weights(family: Family, base_dir: Path) -> Any:
    """Build the denoiser on the meta device."""
    with torch.device("meta"):
        config = family.denoiser.load_config(base_dir / family.part, local_files_only=True)
        return family.denoiser.from_config(config)


def _frozen(module: Any, device: torch.device) -> Any:
    """Turn off gradients, set evaluation mode and move to the device."""
    module.requires_grad_(False)
    module.eval()
    return module.to(device)


# --- written weights --------------------------------------------------------------------------------------------------


def _save_denoiser(denoiser: nn.Module, folder: Path) -> None:
    """Run save_pretrained, then remove the base's path from the configuration and make files readable by all users."""
    cast(Any, denoiser).save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in files_below(folder):
        path.chmod(0o644)


def _save_lora(family: Family, denoiser: nn.Module, folder: Path) -> None:
    """Write diffusers' LoRA file, then rewrite the same tensors and metadata in a fixed order."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    layers = get_peft_model_state_dict(denoiser)
    if family.part == "unet":
        # This renames attention layers only. diffusers reads all names of a file in the spelling of the first.
        renamed = convert_state_dict_to_diffusers(layers)
        layers = layers if layers.keys() & renamed.keys() else renamed
    named = {
        f"{family.part}_lora_layers": layers,
        f"{family.part}_lora_adapter_metadata": cast(Any, denoiser).peft_config["default"].to_dict(),
    }
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        family.pipeline_class.save_lora_weights(scratch, weight_name=LORA_FILE, safe_serialization=True, **named)
        with safe_open(Path(scratch) / LORA_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata())
        metadata[LORA_METADATA] = _ordered(metadata[LORA_METADATA])
        write_tensors(Path(scratch) / "ordered", tensors, metadata)
        shutil.move(Path(scratch) / "ordered", folder / LORA_FILE)


def _ordered(metadata: str) -> str:
    """Return the adapter's configuration with lists that represent sets sorted."""
    values = json.loads(metadata)
    return json.dumps({k: sorted(v) if isinstance(v, list) else v for k, v in values.items()}, sort_keys=True)
