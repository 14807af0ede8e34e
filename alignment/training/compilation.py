"""Compile the repeated blocks of a denoiser with torch.compile, each kind once instead of the whole model."""

import logging
import os

from torch import nn

from alignment.backbones.repeated_blocks import repeated_blocks

logger = logging.getLogger(__name__)


def compile_blocks(denoiser: nn.Module) -> None:
    """Compile the blocks that the model declares as repeated, in place, at their first passes; say so in the log.

    A LoRA's policy and reference are two programs, with and without adapters, each rounded in its own way: their errors
    are then equal only up to rounding. The compiled programs are kept in TORCHINDUCTOR_CACHE_DIR.
    """
    blocks = repeated_blocks(denoiser)
    logger.info(
        "compiling %d blocks (%s): the first steps take minutes, unless %s has the programs of an earlier job",
        len(blocks),
        ", ".join(sorted({type(block).__name__ for block in blocks})),
        os.environ.get("TORCHINDUCTOR_CACHE_DIR", "torch's cache"),
    )
    for block in blocks:
        block.compile()
