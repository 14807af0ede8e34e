"""Stages that run jobs. Plain JSON in, plain JSON out. Both a subcommand and a DAG task call them.

Rooms are imported inside the functions, so that a DAG or a command loads only what it uses.
"""

from collections.abc import Callable

from pipelines.contracts.jobs import JobRequest
from pipelines.release.champion.versions import champion_of
from pipelines.settings import load_settings
from pipelines.stages.values import Json
from pipelines.workspace import open_workspace


def job_request(
    path: str, stage: str, given: Json, *, overrides: tuple[str, ...] = (), generation: int = 0
) -> JobRequest:
    """Build the request of a job stage from the value objects of earlier stages.

    `stage` is a kind of job and `given` has its fields, see `pipelines.dispatch.job_kinds`. Recipes and rewards are
    given by their position in the project file, a source by its name. The champion is added here. ValueError for an
    unknown stage, and for a missing, unknown or wrong field.
    """
    from pipelines.dispatch.job_kinds import find_kind
    from pipelines.dispatch.requests.request import with_generation

    workspace = open_workspace(path, overrides)
    kind = find_kind(stage)
    if "champion" in kind.model_fields:
        given = {**given, "champion": champion_of(workspace)}
    request = kind.read(given, workspace.project).request(workspace)
    return with_generation(request, generation) if generation else request


def run_job(
    path: str, stage: str, given: Json, *, run_key: str, overrides: tuple[str, ...] = (), started_by: str = ""
) -> Json:
    """Run a job stage to its end in this process; return an existing result at once.

    `started_by` is the person who starts it. Those who trained a candidate may not approve it.
    """
    from pipelines.dispatch import jobs

    request = job_request(path, stage, given, overrides=overrides)
    return jobs.run_to_end(request, load_settings(), parent_key=run_key, started_by=started_by)


def close_lost_runs(path: str, dag_run_state: Callable[[str, str], str | None]) -> list[Json]:
    """Close the MLflow runs of the project that a crash left RUNNING; return name, status and reason of each.

    `dag_run_state` maps a DAG id and a run id to the state that Airflow reports, or None.
    """
    from pipelines.dispatch import sweeper

    workspace = open_workspace(path)
    closed = sweeper.close_lost_runs(workspace.project.name, workspace.settings, dag_run_state)
    return [{"run": own.run.name, "status": own.status, "reason": own.reason} for own in closed]
