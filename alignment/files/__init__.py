"""Durable writes, pixels of images, free memory of the host, paths out of files, safetensors, progress."""

__all__ = ["background", "durable", "host_memory", "images", "paths", "progress", "shards", "tensors"]
