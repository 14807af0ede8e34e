"""Commands on the champion and other versions: status, monitor, rollback, reconcile, ledger, prune, export."""

from typing import Annotated

import typer

from pipelines.commands.answers import DONE, FAILED, GATE_SAID_NO, show, show_text
from pipelines.commands.arguments import AsJson, Project


def status(project: Project, as_json: AsJson = False) -> int:
    """Show champion, candidate, last decision, ledger, compute time with its cost, and paused DAGs.

    It creates nothing. The exit code is 1 if the store or MLflow cannot be reached, or does not exist yet.
    """
    from pipelines.commands.rows import status_rows
    from pipelines.platform.dag_states import read_dag_states
    from pipelines.platform.reachable import store_problem, tracking_problem
    from pipelines.release import status as report
    from pipelines.workspace import open_workspace

    workspace = open_workspace(project)
    problems = [problem for ask in (store_problem, tracking_problem) if (problem := ask(workspace.settings))]
    unknown = {"project": workspace.project.name, "problems": problems}
    value = unknown if problems else report.status(workspace)
    value = {**value, "airflow": read_dag_states(workspace).model_dump(mode="json")}
    show(value, as_json=as_json, rows=status_rows(value))
    return FAILED if problems else DONE


def monitor(project: Project, as_json: AsJson = False) -> int:
    """Compare the champion with the pairs that arrived since its training.

    The exit code is 3 if the report asks for a retraining or raises an alarm.
    """
    from pipelines.commands import by_hand

    report = by_hand.monitor_report(project)
    show(report, as_json=as_json, columns=("name", "measured", "limit", "status", "explanation"))
    return DONE if report["outcome"] == "ok" else GATE_SAID_NO


def rollback(
    project: Project,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, kept in the ledger.")],
    from_version: Annotated[
        int | None,
        typer.Option(metavar="N", help="Champion to leave. Nothing moves if another version is the champion."),
    ] = None,
    to_version: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Version to restore; it must have been promoted before.", show_default="previous champion"
        ),
    ] = None,
    to_base: Annotated[bool, typer.Option("--to-base", help="Restore the base model.")] = False,
    forward: Annotated[bool, typer.Option("--forward", help="Return to the version that a rollback left.")] = False,
    as_json: AsJson = False,
) -> int:
    """Restore the previous champion, another promoted version, or the base model."""
    from pipelines.host import shell_user
    from pipelines.stages import champion

    if to_base and to_version is not None:
        raise ValueError("--to-base and --to-version exclude each other. Give one of them.")
    moved = champion.rollback(
        project,
        actor=shell_user(),
        reason=reason,
        from_version=from_version,
        to_version=to_version,
        to_base=to_base,
        forward=forward,
    )
    show(moved, as_json=as_json)
    return DONE


def reconcile(
    project: Project,
    restore: Annotated[
        bool, typer.Option("--restore", help="Undo moves made by hand, regardless of the project's policy.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Check that champion alias, ledger and version tags agree, and close MLflow runs that a crash left open.

    The exit code is 1 if they do not agree.
    """
    from pipelines.host import shell_user
    from pipelines.platform.dag_states import dag_run_state
    from pipelines.settings import load_settings
    from pipelines.stages import champion, jobs

    found = champion.reconcile(project, actor=shell_user(), restore=True if restore else None)
    show({**found, "closed_runs": jobs.close_lost_runs(project, dag_run_state(load_settings()))}, as_json=as_json)
    return FAILED if found["state"] == "alarm" else DONE


def ledger(
    project: Project,
    table: Annotated[bool, typer.Option("--table", help="Print a table, also on a pipe.")] = False,
    as_json: AsJson = False,
) -> int:
    """List every move of the champion alias, oldest first."""
    import sys

    from pipelines.stages import champion

    if table or (sys.stdout.isatty() and not as_json):
        show_text(champion.history_table(project), None, as_json=False)
    else:
        show(champion.history(project), as_json=True)
    return DONE


def prune(
    project: Project,
    keep: Annotated[int, typer.Option(metavar="N", help="Number of newest versions to keep in any case.")],
    as_json: AsJson = False,
) -> int:
    """Delete old model versions that no alias or rollback needs."""
    from pipelines.stages import champion

    show(champion.prune(project, keep=keep), as_json=as_json)
    return DONE


def export(
    project: Project,
    *,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="diffusers, kohya (sd-scripts, Forge) or comfyui.")],
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", help="Model version.", show_default="the champion"),
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder to write.", show_default="NAME-vN-FORMAT")] = "",
    push: Annotated[
        str,
        typer.Option(metavar="HUB", help="Repository to push to, hub://owner/name. It needs HF_TOKEN."),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Write a version's weights for other programs, with a model card. See docs/export.md."""
    from pipelines.stages import export as exports

    show(exports.export(project, version=version, format=format, out=out, push=push), as_json=as_json)
    return DONE
