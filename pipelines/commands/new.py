"""`plumbline new`: write a project file, check it, and name the next command."""

from typing import Annotated, Any

import typer

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson
from pipelines.commands.rows import check_rows


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the project: small letters, digits and underscores.")
    ],
    *,
    base: Annotated[
        str,
        typer.Option(
            metavar="URI", help="Base model: a folder in diffusers' layout, s3://... or hub://owner/name@REVISION."
        ),
    ],
    pairs: Annotated[str, typer.Option(metavar="URI", help="Pairs: folder or s3:// prefix of their parquet files.")],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[KIND=]URI", help="Folder of a judge; its kind unless it was imported. Give one for each judge."
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Evaluation prompts, tab-separated.", show_default="NAME/prompts.tsv, to be written"
        ),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Write a commented project file NAME.toml from a base model and pairs, and check it as doctor does.

    It reads family, resolution, columns, numbers and licences from what is there. What is missing is marked TODO in the
    file. A file that exists is not changed: the exit code is then 2.
    """
    from pipelines.monitor.judges import judge_states
    from pipelines.platform.doctor import diagnose
    from pipelines.project.file import load_project
    from pipelines.settings import load_settings
    from pipelines.stages.new_project import NewProject, write_project

    settings = load_settings()
    asked = NewProject(name=name, base=base, pairs=pairs, judges=tuple(judge or ()), prompts=prompts)
    path = write_project(asked, settings)
    project = load_project(path)
    checks = [check.model_dump(mode="json") for check in diagnose(project, settings, judge_states)]
    step = _next_step(name, checks, prompts_missing=not prompts, prompts_file=project.evaluation.prompts)
    rows = [_row("project", "written", str(path)), *check_rows(checks), _row("next", "", step)]
    show({"project": str(path), "checks": checks, "next": step}, as_json=as_json, rows=rows)
    return DONE


def _next_step(name: str, checks: list[dict[str, Any]], *, prompts_missing: bool, prompts_file: str) -> str:
    """Return the next command: the prompts if there are none, then the pairs unless they cannot be read."""
    if prompts_missing:
        return f"plumbline prompts import LIST --format tsv --out {prompts_file}"
    needed = {"store", "disk", "sources", "base_model"}
    faults = [check["name"] for check in checks if check["name"] in needed and not check["ok"]]
    return f"plumbline doctor {name}" if faults else f"plumbline ingest {name}"


def _row(check: str, result: str, found: str) -> dict[str, Any]:
    return {"check": check, "result": result, "found": found}
