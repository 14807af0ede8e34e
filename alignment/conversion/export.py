"""Write the weights of a version for other programs. Each function fills a draft folder; the job publishes it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open

from alignment.backbones.model_files import LORA_FILE
from alignment.contracts.export import ExportRecord, ExportRequest, check_format
from alignment.conversion.adapters import Adapter, Tensors, comfyui_tensors, kohya_tensors, read_adapter
from alignment.files.durable import files_below
from alignment.files.tensors import write_tensors

NAMING: dict[str, Callable[[Adapter, str], Tensors]] = {"kohya": kohya_tensors, "comfyui": comfyui_tensors}


def write_export(request: ExportRequest, weights_dir: Path, draft: Path) -> ExportRecord:
    """Fill `draft` with the weights/ folder of a TrainResult in the requested format.

    diffusers: the files as they are. kohya, comfyui: one file NAME.safetensors; of a full fine-tune, the denoiser's
    tensors under their names in diffusers, which ComfyUI's loader of diffusion models knows. ValueError when these
    weights cannot have this format.
    """
    check_format(request.format, request.kind)
    num_layers = 0
    if request.kind == "lora":
        adapter = read_adapter(weights_dir)
        num_layers = len(adapter.layers)
        if request.format == "diffusers":
            shutil.copyfile(weights_dir / LORA_FILE, draft / LORA_FILE)
        else:
            write_tensors(draft / f"{request.name}.safetensors", NAMING[request.format](adapter, request.family))
    elif request.format == "diffusers":
        shutil.copytree(weights_dir, draft, dirs_exist_ok=True)
    else:
        write_tensors(draft / f"{request.name}.safetensors", _denoiser(weights_dir))
    files = tuple(path.relative_to(draft).as_posix() for path in files_below(draft))
    return ExportRecord(files=files, num_layers=num_layers)


def _denoiser(weights_dir: Path) -> Tensors:
    """Read the tensors of a denoiser from its one file or its shards. They stay in the files until they are used."""
    tensors: Tensors = {}
    for path in files_below(weights_dir):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if not tensors:
        raise ValueError(f"{weights_dir} holds no safetensors file. Register the weights again.")
    return tensors
