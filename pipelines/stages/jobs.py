"""Job stages: plain JSON in, plain JSON out. Both a subcommand and a DAG task call them.

The wings are imported inside the functions, so that a DAG or a command line pays for what it uses.
"""

from pipelines.contracts.jobs import JobRequest
from pipelines.release.champion.versions import champion_of
from pipelines.settings import load_settings
from pipelines.stages.values import Json
from pipelines.workspace import open_workspace


def job_request(
    path: str, stage: str, given: Json, *, overrides: tuple[str, ...] = (), generation: int = 0
) -> JobRequest:
    """Make the request of a job stage from its upstream value objects.

    `stage` names a kind of job and `given` holds its fields, see `pipelines.dispatch.job_kinds`: recipes and rewards by
    their position in the project file, a source by its name. The champion is filled in here. ValueError for an unknown
    stage, and for a field that is missing, unknown or wrong.
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
    """Run a job stage to its end here and now; an answer that exists is given at once.

    `started_by` is who has it run: whoever trained may not approve what came of it.
    """
    from pipelines.dispatch import jobs

    request = job_request(path, stage, given, overrides=overrides)
    return jobs.run_to_end(request, load_settings(), parent_key=run_key, started_by=started_by)
