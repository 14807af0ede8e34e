"""Durable writes, free memory of the host, paths out of files, safetensors, progress."""

__all__ = ["durable", "host_memory", "paths", "progress", "shards", "tensors"]
