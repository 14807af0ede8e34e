"""The training schedule of a flow-matching base, read from its scheduler."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from alignment.backbones.flow_matching import TIMESTEPS_PER_UNIT, FlowMatchingSchedule

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def load_flow_schedule(base_dir: Path, num_image_tokens: int) -> FlowMatchingSchedule:
    """Return logit-normal timesteps with the shift that the base's scheduler uses in sampling.

    `num_image_tokens` is the number of image tokens in the denoiser's sequence. Dynamic shifts depend on it;
    `FlowMatchingSchedule.for_latent` returns those for other lengths.
    Raises ValueError for another kind of scheduler, or a number of timesteps other than 1000.
    """
    path = base_dir / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name, steps = config.get("_class_name"), config.get("num_train_timesteps", TIMESTEPS_PER_UNIT)
    if name != FLOW_SCHEDULER or steps != TIMESTEPS_PER_UNIT:
        raise ValueError(
            f"{path} states {name} with {steps} timesteps; this family trains with {FLOW_SCHEDULER} and"
            f" {TIMESTEPS_PER_UNIT:.0f}. Use a base model with that scheduler."
        )
    dynamic = bool(config.get("use_dynamic_shifting", False))
    return FlowMatchingSchedule(
        shift=_scheduler_shift(config, num_image_tokens),
        shift_of_tokens=partial(_scheduler_shift, config) if dynamic else None,
    )


def _scheduler_shift(config: Mapping[str, Any], num_image_tokens: int) -> float:
    """Return the shift of a FlowMatchEulerDiscreteScheduler's configuration for an image of that length in tokens.

    A dynamic shift is the exponential of a linear function of the length (with `time_shift_type` linear, the function
    itself). diffusers' training scripts omit the shift, so they train on less noise than sampling uses.
    """
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    shortest, longest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    line = low + (high - low) * (num_image_tokens - shortest) / (longest - shortest)
    return float(line if config.get("time_shift_type") == "linear" else math.exp(line))
