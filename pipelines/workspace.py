"""A project together with its installation, opened once where a command or a task begins."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.project.file import Project, load_project
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import Store, open_store

__all__ = ["Workspace", "open_workspace"]


@dataclass(frozen=True)
class Workspace:
    """A project, the settings of this installation, and its store."""

    project: Project
    settings: Settings

    @cached_property
    def store(self) -> Store:
        """The object store of this installation."""
        return open_store(self.settings.store_uri, self.settings)


def open_workspace(path: str | Path, overrides: tuple[str, ...] = ()) -> Workspace:
    """Read the project at `path`, with recipe overrides, and the settings from the environment.

    ValueError names every bad field of the project file.
    """
    return Workspace(load_project(Path(path), overrides), load_settings())
