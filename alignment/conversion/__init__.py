"""Published judge weights, converted to the folder layout of transformers."""

__all__ = ["catalogue", "folders"]
