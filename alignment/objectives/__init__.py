"""The loss of each objective, a pure function of per-pair errors."""

__all__ = ["inputs", "prdp"]
