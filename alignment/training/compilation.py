"""Compile the repeated blocks of a denoiser with torch.compile, each kind once instead of the whole model."""

import logging
import os

from torch import nn

from alignment.backbones.repeated_blocks import repeated_blocks

logger = logging.getLogger(__name__)

PROGRAMS_PER_BLOCK = 64
"""Most programs that torch keeps for the blocks of one class.

Its default of 8 may not hold two widths of block, passes with and without gradients and adapters, and a second batch
size. What comes after then runs uncompiled, with a warning.
"""


def compile_blocks(denoiser: nn.Module) -> None:
    """Compile the blocks that the model declares as repeated, in place, at their first passes, and log it.

    A LoRA's policy and reference are two programs, with and without adapters, each rounded in its own way: their errors
    are then equal only up to rounding. The compiled programs are kept in TORCHINDUCTOR_CACHE_DIR.
    """
    # It takes a second to import, which only compilation needs.
    from torch._dynamo import config

    blocks = repeated_blocks(denoiser)
    config.recompile_limit = max(config.recompile_limit, PROGRAMS_PER_BLOCK)
    logger.info(
        "compiling %d blocks (%s): the first steps take minutes, unless %s has the programs of an earlier job",
        len(blocks),
        ", ".join(sorted({type(block).__name__ for block in blocks})),
        os.environ.get("TORCHINDUCTOR_CACHE_DIR", "torch's cache"),
    )
    for block in blocks:
        block.compile()
