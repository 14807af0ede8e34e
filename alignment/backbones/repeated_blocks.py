"""The blocks of which a denoiser has many equal ones, and which hold most of its weights."""

from torch import nn


def repeated_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return the blocks that diffusers declares as repeated, or where it declares none (SD3), as inseparable.

    ValueError when there are none.
    """
    kinds = getattr(denoiser, "_repeated_blocks", None) or getattr(denoiser, "_no_split_modules", None) or ()
    blocks = [module for module in denoiser.modules() if type(module).__name__ in kinds]
    if not blocks:
        raise ValueError(
            f"{type(denoiser).__name__} declares no repeated blocks. They are needed for frozen_weights int8 or nf4 and"
            " for compile_blocks: remove these settings."
        )
    return blocks
