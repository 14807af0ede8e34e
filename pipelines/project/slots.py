"""Slots of Airflow's pool `gpu`: one for each process that may run at the same time.

A job on a cluster takes as many as it has processes. Jobs of the engine `local` share the GPUs of one host and do not
know of each other, so each takes as many as the largest of them: in a pool of that size they run one after another.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.contracts.jobs import Placement
from pipelines.project.file import Project

GPU_POOL = "gpu"
"""Name of the pool."""
LOCAL = "local"


class JobSlots(NamedTuple):
    """The slots of one kind of job of one project."""

    slots: int
    project: str
    placement: str
    """Field of [placement]."""


def host_slots(projects: Sequence[Project]) -> int:
    """Return the processes of the largest job of the engine `local`; 1 without projects."""
    return max((own.num_processes for _, _, own in _placements(projects) if own.engine == LOCAL), default=1)


def job_slots(placement: Placement, host: int) -> int:
    """Return the slots of a job with this placement, where local jobs take those of their host."""
    return max(host, placement.num_processes) if placement.engine == LOCAL else placement.num_processes


def largest_job(projects: Sequence[Project]) -> JobSlots:
    """Return the job that takes the most slots, which the pool must have at least; one slot without projects."""
    host = host_slots(projects)
    found = [JobSlots(own.num_processes, project.name, field) for project, field, own in _placements(projects)]
    return max(found, key=lambda own: own.slots, default=JobSlots(host, "", ""))


def _placements(projects: Sequence[Project]) -> Iterator[tuple[Project, str, Placement]]:
    for project in projects:
        for field, placement in project.placement:
            yield project, field, placement
