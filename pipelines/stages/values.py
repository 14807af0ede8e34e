"""Conversion between value objects and the plain JSON that stages exchange."""

from pathlib import Path
from typing import Any

from pipelines.project.file import Project, load_project

Json = dict[str, Any]


def read_project(path: str, overrides: tuple[str, ...] = ()) -> Project:
    """The project at `path`, with recipe overrides; ValueError names every bad field."""
    return load_project(Path(path), overrides)


def to_json(value: Any) -> Json:
    """A value object as plain data."""
    answer: Json = value.model_dump(mode="json")
    return answer
