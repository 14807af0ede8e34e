"""A flow-matching base's own scheduler as the schedule to train on."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from alignment.backbones.flow_matching import TIMESTEPS_PER_UNIT, FlowMatchingSchedule

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def load_flow_schedule(base_dir: Path, num_image_tokens: int) -> FlowMatchingSchedule:
    """Logit-normal timesteps, moved towards noise as far as the base's scheduler moves them when it samples.

    `num_image_tokens` is the length of the image's part of the denoiser's sequence; dynamic shifts depend on it, and
    `FlowMatchingSchedule.for_latent` gives those of other lengths.
    Raises ValueError for another kind of scheduler, or another number of timesteps than 1000.
    """
    path = base_dir / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name, steps = config.get("_class_name"), config.get("num_train_timesteps", TIMESTEPS_PER_UNIT)
    if name != FLOW_SCHEDULER or steps != TIMESTEPS_PER_UNIT:
        raise ValueError(
            f"{path} states {name} with {steps} timesteps; this family trains with {FLOW_SCHEDULER} and"
            f" {TIMESTEPS_PER_UNIT:.0f}. Use a base model whose scheduler is that one."
        )
    dynamic = bool(config.get("use_dynamic_shifting", False))
    return FlowMatchingSchedule(
        shift=scheduler_shift(config, num_image_tokens),
        shift_of_tokens=partial(scheduler_shift, config) if dynamic else None,
    )


def scheduler_shift(config: Mapping[str, Any], num_image_tokens: int) -> float:
    """The shift of a FlowMatchEulerDiscreteScheduler's configuration at an image's length.

    A dynamic shift is the exponential of a straight line in that length (or the line itself, `time_shift_type` linear);
    diffusers' training scripts leave it out and train unshifted, so that training sees less noise than sampling does.
    """
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    shortest, longest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    line = low + (high - low) * (num_image_tokens - shortest) / (longest - shortest)
    return float(line if config.get("time_shift_type") == "linear" else math.exp(line))
