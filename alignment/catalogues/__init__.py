"""Catalogues of objectives, rewards, backbones, optimisers and image sizes: name, settings, import path. Torch-free."""

__all__ = ["backbones", "images", "lookup", "objectives", "optimisers", "published", "record", "rewards"]
