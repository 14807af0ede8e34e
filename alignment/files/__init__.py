"""Durable writes, pixels of images, paths out of files, safetensors, progress."""

__all__ = ["durable", "images", "paths", "progress", "shards", "tensors"]
