"""Weights of a scorer's network, every one of them from its folder.

transformers fills what a folder lacks with random numbers and says so in a log line. A judge or a guard with a random
layer still scores, differently in every process, so here such a folder is refused.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

NAMED = 3
"""Weights of each kind that an error names."""
POSITION_NUMBERS = "position_ids"
"""0, 1, 2, ...: older versions of transformers saved them, today's count anew."""


def load_whole(
    model_class: Any, folder: Path, *, what: str, may_lack: Sequence[str] = (), may_hold: Sequence[str] = ()
) -> Any:
    """A transformers model in float32 whose weights are exactly those of the folder.

    `may_lack` and `may_hold` are parts of a network that play no part in the score, as they stand between the dots of a
    weight's name: one may be missing, the other left over.
    ValueError when the folder cannot be read, lacks a weight, has one of another shape, or holds one that the network
    of its config.json does not have, which is a sign of another network.
    """
    try:
        model: PreTrainedModel
        model, found = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            # So that they are told apart and named below instead of in a traceback.
            ignore_mismatched_sizes=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The {what} {folder} cannot be loaded: {error} Import or copy it again.") from error
    shapes = [
        f"{name} ({_shape(saved)}, needed {_shape(own)})" for name, saved, own in sorted(found["mismatched_keys"])
    ]
    faults = [
        _fault("lacks", _beside(found["missing_keys"], may_lack), ", which would be random"),
        _fault("has another shape of", shapes, ""),
        _fault("holds", _beside(found["unexpected_keys"], (POSITION_NUMBERS, *may_hold)), " that nothing would read"),
    ]
    if any(faults):
        raise ValueError(
            f"The {what} {folder} does not fit its config.json: it {'; it '.join(filter(None, faults))}. Import or copy"
            " it again, weights and config.json of one model."
        )
    return model


def _beside(names: Iterable[str], parts: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not set(name.split(".")) & set(parts))


def _fault(verb: str, names: Sequence[str], end: str) -> str:
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{verb} {len(names)} weights{end} ({shown})" if names else ""


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
