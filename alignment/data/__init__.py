"""Pairs, features and human labels, as jobs read them."""

__all__ = [
    "feature_writing",
    "features",
    "human_labels",
    "pairs",
    "prompt_lines",
    "streamed_features",
]
