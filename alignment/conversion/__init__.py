"""Weights in other layouts: published judges come in, trained adapters and denoisers go out."""

__all__ = ["catalogue", "export", "folders"]
