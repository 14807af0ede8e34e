"""Load weights as a pipeline that draws images."""

from pathlib import Path
from typing import Any

import torch

from alignment.catalogues.backbones import BackboneParams
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import ModelRef


def load_model(
    backbone: BackboneParams, base_dir: Path, model: ModelRef, weights_dir: Path | None, *, device: torch.device
) -> Any:
    """Load a pipeline of the backbone's family on a device; `weights_dir` is None for the base itself.

    Adapters are merged into the weights: the same model with fewer operations.
    """
    module = backbone.implementation.partition(":")[0]
    pipeline = resolve(f"{module}:load_pipeline")(base_dir, model, weights_dir)
    if model.kind == "lora":
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    return pipeline.to(device)
