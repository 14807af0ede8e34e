"""Compile the repeated blocks of a denoiser with torch.compile, each kind once instead of the whole model."""

import logging
import os
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)


def compile_blocks(denoiser: nn.Module) -> None:
    """Compile the blocks that the model declares as repeated, in place, at their first passes; say so in the log.

    A LoRA's policy and reference are two programs, with and without adapters, each rounded in its own way: their errors
    are then equal only up to rounding. The compiled programs are kept in TORCHINDUCTOR_CACHE_DIR.
    """
    kinds = getattr(denoiser, "_repeated_blocks", None) or ()
    count = sum(type(module).__name__ in kinds for module in denoiser.modules())
    if not count:
        raise ValueError(
            f"compile_blocks = true, but {type(denoiser).__name__} declares no repeated blocks. Remove compile_blocks."
        )
    logger.info(
        "compiling %d blocks (%s): the first steps take minutes, unless %s has the programs of an earlier job",
        count,
        ", ".join(kinds),
        os.environ.get("TORCHINDUCTOR_CACHE_DIR", "torch's cache"),
    )
    compiled: Any = denoiser
    compiled.compile_repeated_blocks()
