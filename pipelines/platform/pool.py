"""The pool `gpu` of Airflow: is it there, and large enough for the jobs of the projects?

`python -m pipelines.platform.pool` prints the slots that it needs, for a container that makes it.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.project.file import Project, load_projects
from pipelines.project.slots import GPU_POOL, largest_job
from pipelines.settings import load_settings


def pool_problem(found: Mapping[str, Any] | None, projects: Sequence[Project]) -> str:
    """Return why Airflow would never start a job of these projects, and the fix; empty if the pool is as it must be.

    `found` is the pool as Airflow's API describes it; None without one.
    """
    largest = largest_job(projects)
    fix = "Run `plumbline setup-airflow`"
    if found is None:
        return f"Airflow has no pool `{GPU_POOL}`, so it never starts a task that runs a job. {fix}."
    have = int(found["slots"])
    if have != -1 and have < largest.slots:
        return (
            f"Airflow's pool `{GPU_POOL}` has {slots_in_words(have)}, but placement.{largest.placement} of"
            f" {largest.project!r} has num_processes = {largest.slots}, and each process takes one: Airflow never"
            f" starts that task. {fix}, or lower num_processes."
        )
    if not found["include_deferred"]:
        return (
            f"Airflow's pool `{GPU_POOL}` does not count deferred tasks, so it does not limit the jobs that run at the"
            f" same time. {fix}."
        )
    return ""


def slots_in_words(number: int) -> str:
    """Describe the size of a pool, -1 for one without limit."""
    return "unlimited slots" if number == -1 else f"{number} slot{'s' * (number != 1)}"


if __name__ == "__main__":
    sys.stdout.write(f"{largest_job(load_projects(load_settings().projects_dir)[0]).slots}\n")
