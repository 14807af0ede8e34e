"""Metrics and samples: the values that sources return, without a library, so that a source can be read anywhere."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class Metric:
    """One metric: name, help text and the names of its labels. A name that ends in `_total` is a counter."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def of(self, value: float, *labels: str) -> "Sample":
        """Return a value of this metric, with one value for each label."""
        assert len(labels) == len(self.labels), f"{self.name} has the labels {self.labels}, not {labels}"
        return Sample(self, labels, float(value))


class Sample(NamedTuple):
    """One value of a metric."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


@dataclass
class Reading:
    """Arguments of one reading: the settings, the project, and the memory of earlier readings of the same source.

    The memory holds what never changes once it is written, such as a decision, so that it is read only once.
    """

    settings: Settings
    project: Project | None = None
    """None for a source that is about the installation."""
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        """Project and settings of a source that is about a project."""
        assert self.project is not None, "this source is about a project"
        return Workspace(self.project, self.settings)
