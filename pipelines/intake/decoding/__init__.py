"""Decoding of images in processes that a hostile image may kill: pool, worker, and the frames between them."""

__all__ = ["pool"]
