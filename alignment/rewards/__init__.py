"""Scorers of images, one file each."""

__all__ = [
    "affine_head",
    "blindness",
    "clip_head",
    "clip_model",
    "clip_vocabulary",
    "hpsv3",
    "interface",
    "judge_files",
    "pal",
    "pal_head",
]
