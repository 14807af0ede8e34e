"""Loading of a scorer's network with every weight from its folder.

transformers fills missing weights with random numbers and reports it only in a log line. A judge or guard with a random
layer still scores, but differently in every process, so such a folder is refused here. So is one with a dead layer: a
matrix of zeros lets nothing through, and a value that is not finite makes every score so.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from alignment.rewards.dead_weights import check_alive, named

POSITION_NUMBERS = "position_ids"
"""0, 1, 2, ...: older versions of transformers saved them; current ones compute them."""


def load_whole(
    model_class: Any, folder: Path, *, what: str, may_lack: Sequence[str] = (), may_hold: Sequence[str] = ()
) -> Any:
    """Load a transformers model in float32 whose weights are exactly those of the folder.

    `may_lack` and `may_hold` name parts of a network that do not affect the score, as they appear between the dots of a
    weight's name. Weights of `may_lack` may be missing; the folder may hold extra weights of `may_hold`.
    ValueError when the folder cannot be read, lacks a weight, has a weight of another shape, or has a weight that the
    network of its config.json does not have, because it then belongs to another network; or when a weight is dead.
    """
    try:
        model: PreTrainedModel
        model, found = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            # Mismatched shapes are then reported below instead of in a traceback.
            ignore_mismatched_sizes=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The {what} {folder} cannot be loaded: {error} Import or copy it again.") from error
    shapes = [
        f"{name} ({_shape(saved)}, needed {_shape(own)})" for name, saved, own in sorted(found["mismatched_keys"])
    ]
    faults = [
        _fault("lacks", _beside(found["missing_keys"], may_lack), ", which would be random"),
        _fault("has wrong shapes for", shapes, ""),
        _fault(
            "holds", _beside(found["unexpected_keys"], (POSITION_NUMBERS, *may_hold)), " that the network does not have"
        ),
    ]
    if any(faults):
        raise ValueError(
            f"The {what} {folder} does not match its config.json: it {'; it '.join(filter(None, faults))}. Import or"
            " copy it again, with weights and config.json of the same model."
        )
    check_alive(dict(model.named_parameters()), f"{what} {folder}")
    return model


def _beside(names: Iterable[str], parts: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not set(name.split(".")) & set(parts))


def _fault(verb: str, names: Sequence[str], end: str) -> str:
    return f"{verb} {len(names)} weights{end} ({named(names)})" if names else ""


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
