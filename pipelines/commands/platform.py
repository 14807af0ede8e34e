"""Commands on the platform that Plumbline runs on: demo, up, down, setup-airflow, exporter and doctor."""

from typing import Annotated

import typer

from pipelines.commands.answers import DONE, FAILED, show
from pipelines.commands.arguments import AsJson, Overrides, Project, Recipe, existing_path
from pipelines.commands.loop import chosen_recipe
from pipelines.commands.rows import check_rows


def demo(project: Project, overrides: Overrides = None, recipe: Recipe = None) -> int:
    """Run the whole loop once on the embedded Airflow and MLflow.

    It prints a summary and stops both. Overrides need --recipe.

    The exit code is 0 if the candidate is the champion afterwards and 3 if the gate refused it.
    """
    from pipelines.platform import demo as platform_demo

    path, remaining = chosen_recipe(project, recipe, overrides)
    if remaining:
        raise ValueError(
            "The DAGs read the overrides from the project file. Give --recipe NAME too, or write them there."
        )
    return platform_demo.run(path)


def up(
    airflow_port: Annotated[int, typer.Option(metavar="PORT", help="Port of Airflow; 0 for any free port.")] = 0,
    mlflow_port: Annotated[int, typer.Option(metavar="PORT", help="Port of MLflow; 0 for any free port.")] = 0,
) -> int:
    """Start the embedded Airflow and MLflow and stay in the foreground."""
    from pipelines.platform import foreground

    return foreground.stay_up(mlflow_port=mlflow_port, airflow_port=airflow_port)


def setup_airflow(
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Slots of the pool gpu.", show_default="the processes of the largest job", min=1
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make the pool and the connections that the projects need in an Airflow, and check how its users log in.

    Repeated, it changes nothing more. Connections are placeholders to fill in; existing ones stay as they are. It asks
    the Airflow at PLUMBLINE_AIRFLOW_UI_URL, else the embedded one. The exit code is 1 if something is left to do.
    """
    from pipelines.platform import airflow_setup
    from pipelines.settings import load_settings

    found = airflow_setup.setup_airflow(load_settings(), slots=slots)
    show(found.model_dump(mode="json"), as_json=as_json)
    return FAILED if found.problems else DONE


def down(as_json: AsJson = False) -> int:
    """Stop the embedded Airflow and MLflow."""
    from pipelines.platform import services
    from pipelines.settings import load_settings

    show({"stopped": services.stop(load_settings())}, as_json=as_json)
    return DONE


def exporter(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. The metrics need no log-in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0 for any free port.")] = 9464,
) -> int:
    """Serve metrics to Prometheus until it is stopped.

    Reads the store, MLflow and Airflow; see docs/observability.md for the metrics.
    """
    from pipelines.platform.exporter import server
    from pipelines.settings import load_settings

    return server.serve(load_settings(), host=host, port=port)


def doctor(
    project: Annotated[
        str | None,
        typer.Argument(metavar="PROJECT", help="Project to check too: its name or its file.", callback=existing_path),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check installation, hardware, data, model, judges and DAGs, and suggest how to fix each fault.

    The exit code is 1 if a check fails.
    """
    from pipelines.monitor.judges import judge_states
    from pipelines.platform import doctor as diagnosis
    from pipelines.settings import load_settings
    from pipelines.stages import values

    read = values.read_project(project) if project else None
    checks = [check.model_dump(mode="json") for check in diagnosis.diagnose(read, load_settings(), judge_states)]
    show({"checks": checks}, as_json=as_json, rows=check_rows(checks))
    return DONE if all(check["ok"] for check in checks) else FAILED
