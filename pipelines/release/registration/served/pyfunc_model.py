"""Serve a champion: prompt in, PNG out. This file is copied into every registered model and runs where it is loaded.

It is part of the model, not a module of this package, so its folder has no `__init__.py`. It needs mlflow to be loaded
and diffusers to draw, and nothing of Plumbline. Weights and base model are hashed before they are read, and read only
as safetensors.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd  # noqa: TID253 - as mlflow below
from mlflow.models import set_model  # noqa: TID253 - mlflow runs this file
from mlflow.pyfunc import PythonModel  # noqa: TID253


class AlignedPipeline(PythonModel):  # type: ignore[misc]
    """A diffusers pipeline of the base model with the registered weights in place.

    `model_config`: kind (lora or full), base_model (a local folder; override it when the folder has moved),
    base_digest, weights_digest, resolution (side in pixels), scheduler, num_inference_steps, guidance_scale.
    """

    def load_context(self, context: Any) -> None:
        """Check both folders and build the pipeline. ValueError when either is not what was registered."""
        config = context.model_config
        weights_dir, base_dir = Path(context.artifacts["weights"]), Path(config["base_model"])
        moved = "Pass the base model's folder: load_model(uri, model_config={'base_model': '/folder'})."
        check_folder(weights_dir, config["weights_digest"], "The registered weights", "Do not use this version.")
        check_folder(base_dir, config["base_digest"], "The base model", moved)
        self.pipeline = build_pipeline(base_dir, weights_dir, config)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[bytes]:
        """Return one PNG per prompt. Image i starts from seed + i; the noise is drawn on the CPU, so that it does not
        depend on batch and device."""
        import torch

        config, params = context.model_config, params or {}
        prompts = list_prompts(model_input)
        seed = int(params.get("seed", 0))
        images = self.pipeline(
            prompt=prompts,
            negative_prompt=[params["negative_prompt"]] * len(prompts) if params.get("negative_prompt") else None,
            height=config["resolution"],
            width=config["resolution"],
            num_inference_steps=int(params.get("num_inference_steps", config["num_inference_steps"])),
            guidance_scale=float(params.get("guidance_scale", config["guidance_scale"])),
            generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))],
        ).images
        return [encode_png(image) for image in images]


def check_folder(path: Path, digest: str, name: str, fix: str) -> None:
    """Raise ValueError unless the sha256 over the folder's sorted "path sha256" lines is the digest.

    A link to a folder is refused: the digest would not cover the files behind it, but they would be loaded.
    """
    if not path.is_dir():
        raise ValueError(f"{name} should be in {path}, which is not a folder on this machine. {fix}")
    lines = []
    for file in path.rglob("*"):
        relative = file.relative_to(path).as_posix()
        if file.is_symlink() and not file.is_file():
            raise ValueError(f"{name} in {path} has {relative}, a symbolic link to a folder. {fix}")
        if file.is_file() and relative != "manifest.json":
            with file.open("rb") as stream:
                lines.append(f"{relative} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    found = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    if found != digest:
        raise ValueError(f"{name} in {path} has digest {found}, but {digest} was registered. {fix}")


def build_pipeline(base_dir: Path, weights_dir: Path, config: dict[str, Any]) -> Any:
    """Build the base's pipeline with the adapter loaded or the denoiser replaced, on the GPU if there is one."""
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline

    local: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    parts = written_denoiser(base_dir, weights_dir) if config["kind"] == "full" else {}
    pipeline = DiffusionPipeline.from_pretrained(base_dir, **local, **parts)
    if config["kind"] == "lora":
        pipeline.load_lora_weights(weights_dir, weight_name="pytorch_lora_weights.safetensors", **local)
    if config["scheduler"] == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def written_denoiser(base_dir: Path, weights_dir: Path) -> dict[str, Any]:
    """Load the denoiser of a full fine-tune, by pipeline component, with the class named in the base's
    model_index.json."""
    import diffusers

    classes = json.loads((base_dir / "model_index.json").read_text(encoding="utf-8"))
    return {
        part: getattr(diffusers, classes[part][1]).from_pretrained(
            weights_dir / part, use_safetensors=True, local_files_only=True
        )
        for part in ("unet", "transformer")
        if (weights_dir / part).is_dir()
    }


def list_prompts(model_input: Any) -> list[str]:
    """Return the prompts of a table or dict with a `prompt` column; a cell may hold a list."""
    prompts: list[str] = []
    for cell in [model_input["prompt"]] if isinstance(model_input["prompt"], str) else list(model_input["prompt"]):
        prompts += [cell] if isinstance(cell, str) else list(cell)
    if not prompts:
        raise ValueError("No prompt given. Pass {'prompt': ['a small red circle on a white background']}.")
    return prompts


def encode_png(image: Any) -> bytes:
    """Encode a PIL image as PNG bytes."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


set_model(AlignedPipeline())
