"""Value objects of an export: weights of a version in a format that other programs read. Torch-free."""

from typing import Literal, get_args

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.values import Record

ExportFormat = Literal["diffusers", "kohya", "comfyui"]
Family = Literal["stable_diffusion", "sdxl", "sd3", "flux"]
FORMATS: dict[str, tuple[str, ...]] = {"lora": get_args(ExportFormat), "full": ("diffusers", "comfyui")}
"""Possible formats by kind of weights."""


class ExportRequest(Record):
    """One export."""

    format: ExportFormat
    kind: Literal["lora", "full"]
    family: Family
    """Name of the backbone."""
    name: str
    """Name of a single-file export, without the suffix."""


class ExportRecord(Record):
    """Result of a conversion."""

    files: tuple[str, ...]
    """Files written, relative to the folder, sorted."""
    num_layers: int
    """Adapted layers; 0 for a full fine-tune."""


def check_format(format: str, kind: str) -> None:
    """Raise ValueError for an unknown format, or one that weights of this kind cannot have."""
    if format not in get_args(ExportFormat):
        raise ValueError(unknown_name("format", format, get_args(ExportFormat)))
    if format not in FORMATS[kind]:
        raise ValueError(
            f"Weights of kind {kind!r} cannot be exported as {format!r}. Possible: {', '.join(FORMATS[kind])}. The"
            " scripts of kohya read a base model as a folder of diffusers."
        )
