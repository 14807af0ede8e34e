"""The denoisers of published bases: configuration and shapes of weights, to plan before a base is here. Torch-free.

`published_bases.json` holds the numbers of the configurations on the model hub. The weights of each were counted on
torch's meta device (`python -m alignment.backbones.published_weights` writes them again).
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from alignment.catalogues.record import Record

__all__ = ["PUBLISHED_FILE", "PublishedBase", "WeightGroup", "published_base", "published_bases"]

PUBLISHED_FILE = Path(__file__).with_name("published_bases.json")
_USUAL = {"stable_diffusion": "sd15", "sdxl": "sdxl", "sd3": "sd35_medium", "flux": "flux1_dev"}
"""Base that stands for a family."""


class WeightGroup(Record):
    """Weights of one shape. In the name of several, `*` stands for a block's number."""

    name: str
    shape: tuple[int, ...]
    count: int = 1


class PublishedBase(Record):
    """A published denoiser."""

    title: str
    family: str
    """Name of the backbone."""
    config: dict[str, Any]
    """Configuration of the denoiser as diffusers reads it; fields that are absent have diffusers' defaults."""
    weights: tuple[WeightGroup, ...]


@cache
def published_bases() -> Mapping[str, PublishedBase]:
    """Return the published bases by their short names."""
    found = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    return {
        name: PublishedBase(
            title=own["title"],
            family=own["family"],
            config=own["config"],
            weights=tuple(WeightGroup(name=n, shape=tuple(s), count=c) for n, s, c in own["weights"]),
        )
        for name, own in found.items()
    }


def published_base(family: str) -> PublishedBase:
    """Return the published base that stands for a family."""
    return published_bases()[_USUAL[family]]
