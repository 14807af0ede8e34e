"""Durable writes, paths out of files, safetensors, progress."""

__all__ = ["background", "durable", "paths", "progress", "shards", "tensors"]
