"""Durable writes, paths out of files, safetensors, progress."""

__all__ = ["durable", "paths", "progress", "shards", "tensors"]
