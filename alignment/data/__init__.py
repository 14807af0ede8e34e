"""Pairs, features and human labels, as jobs read them."""

__all__ = ["features", "human_labels", "pairs", "prompt_lines", "streamed_features"]
