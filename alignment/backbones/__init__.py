"""Model families: encode, predict, decode, draw."""

__all__ = [
    "ancestral",
    "drawing",
    "drawing_precision",
    "interface",
    "model_files",
    "noise_schedule",
    "repeated_blocks",
]
