"""Durable writes, pixels of images, paths out of files, safetensors, progress."""

__all__ = ["background", "durable", "images", "paths", "progress", "shards", "tensors"]
