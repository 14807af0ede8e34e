"""The sources of the exporter: one entry each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.platform.exporter import champion, decisions, finished_jobs, pairs, running_jobs, scheduler
from pipelines.platform.exporter.metrics import Metric, Reading, Sample


@dataclass(frozen=True)
class Source:
    """A part of the product that metrics are read from."""

    name: str
    read: Callable[[Reading], Sequence[Sample]]
    metrics: tuple[Metric, ...]
    every_seconds: float
    """Time between two readings. A scrape in between gets the samples of the last one."""
    per_project: bool = True
    """Read for each project separately, so that a fault in one hides no other."""


SOURCES: tuple[Source, ...] = (
    Source("airflow", scheduler.read, scheduler.METRICS, every_seconds=15, per_project=False),
    Source("running_jobs", running_jobs.read, running_jobs.METRICS, every_seconds=30),
    Source("decisions", decisions.read, decisions.METRICS, every_seconds=60),
    Source("champion", champion.read, champion.METRICS, every_seconds=120),
    Source("finished_jobs", finished_jobs.read, finished_jobs.METRICS, every_seconds=300),
    Source("pairs", pairs.read, pairs.METRICS, every_seconds=600),
)
