"""Specifications and results of jobs. Frozen, plain JSON, torch-free."""

__all__ = [
    "calibration",
    "captions",
    "coverage",
    "data",
    "evaluation",
    "export",
    "jobs",
    "judges",
    "labelling",
    "names",
    "precision",
    "prompt_text",
    "reference_errors",
    "reward_models",
    "soup",
    "streaming",
    "training",
    "values",
]
