"""`plumbline jobs`: list jobs, show the log of one, cancel one."""

from typing import Annotated

import typer

from pipelines.commands.answers import DONE, FAILED, show
from pipelines.commands.arguments import AsJson, existing_path
from pipelines.commands.groups import command_group

COLUMNS = ("job_id", "kind", "state", "progress", "age", "compute", "message")

Job = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its beginning if no other job has it.")]


def list_jobs(
    project: Annotated[
        str | None,
        typer.Argument(
            metavar="PROJECT",
            help="Project whose jobs to list: its name or its file.",
            show_default="all projects",
            callback=existing_path,
        ),
    ] = None,
    active: Annotated[bool, typer.Option("--active", help="List only jobs that wait or run.")] = False,
    as_json: AsJson = False,
) -> int:
    """List jobs with state, progress, age and cost, the newest first.

    It lists the jobs of this host, of the Ray cluster, and those that finished on other hosts with the same store.
    """
    from pipelines.dispatch import job_list
    from pipelines.settings import load_settings
    from pipelines.stages import values

    name = values.read_project(project).name if project else ""
    found = job_list.list_jobs(load_settings(), name, active=active)
    show([own.model_dump(mode="json") for own in found], as_json=as_json, columns=COLUMNS)
    return DONE


def log(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines until the job ends.")] = False,
) -> int:
    """Print the log of a job, all its attempts in order.

    With --follow the exit code is 1 if the job does not succeed.
    """
    from pipelines.dispatch import job_list, jobs
    from pipelines.dispatch.engines.catalogue import open_engine
    from pipelines.settings import load_settings

    settings = load_settings()
    handle = job_list.find_job(job, settings)
    status = jobs.follow(handle, open_engine(handle.engine, settings), _print_line, wait=follow)
    return FAILED if follow and status.state != "succeeded" else DONE


def cancel(job: Job, as_json: AsJson = False) -> int:
    """Stop a job. Its checkpoints stay: the command or task that started it can resume it.

    A job that has ended is left as it is.
    """
    from pipelines.dispatch import job_list, jobs
    from pipelines.settings import load_settings

    settings = load_settings()
    handle = job_list.find_job(job, settings)
    before = jobs.poll(handle, settings).state
    jobs.cancel(handle, settings)
    show({"job_id": handle.job_id, "before": before, "state": jobs.poll(handle, settings).state}, as_json=as_json)
    return DONE


def _print_line(line: str) -> None:
    print(line, flush=True)


app = command_group({"list": list_jobs, "log": log, "cancel": cancel}, help="List jobs, show their logs, cancel them.")
