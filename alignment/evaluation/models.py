"""Load weights as a pipeline that draws images."""

from pathlib import Path
from typing import Any

import torch

from alignment.backbones.drawing_precision import set_precision
from alignment.catalogues.backbones import BackboneParams
from alignment.catalogues.lookup import resolve
from alignment.contracts.evaluation import ModelRef
from alignment.contracts.values import NumberFormat

_LOADERS = "alignment.backbones.diffusers_model"


def load_model(
    backbone: BackboneParams,
    base_dir: Path,
    model: ModelRef,
    weights_dir: Path | None,
    *,
    device: torch.device,
    precision: NumberFormat = "fp32",
    with_texts: bool = True,
) -> Any:
    """Load a pipeline of the backbone's family on a device; `weights_dir` is None for the base itself.

    Adapters are merged into the weights in float32: the same model with fewer operations. `with_texts`: with the text
    encoders, which prompts need that are not encoded yet.
    """
    load = resolve(f"{_LOADERS}:load_model")
    pipeline = load(_family(backbone), base_dir, model, weights_dir, with_texts=with_texts)
    if model.kind == "lora":
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    set_precision(pipeline, precision)
    return pipeline.to(device)


def load_texts(
    backbone: BackboneParams, base_dir: Path, *, device: torch.device, precision: NumberFormat = "fp32"
) -> Any:
    """Load the base's tokenizers and text encoders, as a pipeline, on a device. Every model of the base shares them."""
    pipeline = resolve(f"{_LOADERS}:load_texts")(_family(backbone), base_dir, device)
    set_precision(pipeline, precision)
    return pipeline


def _family(backbone: BackboneParams) -> Any:
    return resolve(f"{backbone.implementation.partition(':')[0]}:FAMILY")
