"""Conversion between value objects and the plain JSON that stages exchange."""

from pathlib import Path
from typing import Any

from pipelines.project.file import Project, load_project

Json = dict[str, Any]


def read_project(path: str, overrides: tuple[str, ...] = ()) -> Project:
    """Load the project at `path` with recipe overrides; ValueError names every bad field."""
    return load_project(Path(path), overrides)


def to_json(value: Any) -> Json:
    """Convert a value object to plain JSON data."""
    plain: Json = value.model_dump(mode="json")
    return plain
