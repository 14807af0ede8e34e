"""Cancel jobs whose task has ended: a person killed it while no triggerer ran, so that nothing stopped the job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.dispatch import claims
from pipelines.dispatch.claims import JobClaim
from pipelines.project.file import load_project
from pipelines.settings import load_settings

_ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


def cancel_orphans(path: str, context: Mapping[str, Any]) -> list[str]:
    """Cancel the running jobs of the project that no task waits for; return their ids.

    A task whose row was deleted counts as ended.
    """
    read_states = context["ti"].get_task_states

    def waits(claim: JobClaim) -> bool:
        found = read_states(dag_id=claim.dag_id, task_ids=[claim.task_id], run_ids=[claim.run_id])
        name = claim.task_id if claim.map_index < 0 else f"{claim.task_id}_{claim.map_index}"
        states = found.get(claim.run_id, {})
        return name in states and states[name] not in _ENDED

    return claims.cancel_orphans(load_project(Path(path)).name, load_settings(), waits)
