"""Read the paused and missing DAGs of a project from Airflow."""

import importlib.util
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

from alignment.contracts.values import Record
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5
_NEXT_STEP = (
    "Start the embedded platform with `plumbline up`, or name your Airflow by PLUMBLINE_AIRFLOW_UI_URL,"
    " PLUMBLINE_AIRFLOW_USER and PLUMBLINE_AIRFLOW_PASSWORD."
)
_CHECK_LOGIN = "Check PLUMBLINE_AIRFLOW_UI_URL, PLUMBLINE_AIRFLOW_USER and PLUMBLINE_AIRFLOW_PASSWORD."


class _DagStates(Record):
    """State of one project's DAGs in Airflow."""

    reachable: bool
    url: str = ""
    """Address of the Airflow that was queried; empty when none is known."""
    paused_dags: tuple[str, ...] | None = None
    """Ids of the DAGs that start nothing until a person unpauses them; None when Airflow is not reachable."""
    missing_dags: tuple[str, ...] | None = None
    """Ids of the DAGs that the project should have and Airflow does not know; None when Airflow is not reachable."""
    problem: str = ""
    """Reason why Airflow is not reachable, and the next step; empty when it is."""


def read_dag_states(workspace: Workspace) -> _DagStates:
    """Query the configured Airflow, or the embedded one where none is configured; never raises when the query fails.

    Needs about TIMEOUT_SECONDS for a server that does not respond.
    """
    if importlib.util.find_spec("httpx") is None:
        return _unreachable("", "httpx is not installed here", "Run this where `plumbline[control]` is installed.")
    login = airflow_login(workspace.settings)
    if login is None:
        return _unreachable("", "the embedded platform is not running and no other is configured", _NEXT_STEP)
    return _ask(workspace.project, *login)


def dag_run_state(settings: Settings) -> Callable[[str, str], str | None]:
    """Return a function that maps the ids of a DAG and of a run to the run's state, or to None.

    It asks the same Airflow, and stops asking one that did not respond.
    """
    login = airflow_login(settings)

    def ask(dag_id: str, run_id: str) -> str | None:
        nonlocal login
        if login is None:
            return None
        import httpx

        from pipelines.platform.rest import AirflowApi

        url, user, password = login
        try:
            with closing(
                AirflowApi(url, user=user, password=password, attempts=1, timeout_seconds=TIMEOUT_SECONDS)
            ) as api:
                return str(api.run(dag_id, run_id)["state"])
        except httpx.HTTPError:
            login = None
        except RuntimeError as error:
            log.info("%s", error)
        return None

    return ask


def read_pool(settings: Settings, name: str) -> dict[str, Any] | None:
    """Return slots and use of a pool, empty when there is none of this name; None when Airflow cannot be asked."""
    login = airflow_login(settings) if importlib.util.find_spec("httpx") is not None else None
    if login is None:
        return None
    import httpx

    from pipelines.platform.rest import AirflowApi

    url, user, password = login
    try:
        with closing(AirflowApi(url, user=user, password=password, attempts=1, timeout_seconds=TIMEOUT_SECONDS)) as api:
            return api.pool(name)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, RuntimeError) as error:
        log.info("The pool %s is not known: %s", name, error)
        return None


def is_configured(settings: Settings) -> bool:
    """Return True where the environment names an Airflow and a user."""
    return bool(settings.airflow_ui_url and settings.airflow_user)


def airflow_login(settings: Settings) -> tuple[str, str, str] | None:
    """Return URL, user and password of the configured Airflow, else of the embedded one; None when none is known."""
    from pipelines.platform import services

    if is_configured(settings):
        return settings.airflow_ui_url, settings.airflow_user, settings.airflow_password.get_secret_value()
    platform = services.read_platform(settings)
    if platform is None or not services.is_alive(platform.airflow):
        return None
    try:
        return platform.airflow.url, "admin", services.admin_password(settings)
    except OSError:  # Airflow has not written the file yet, or only another user may read it.
        return None


def _ask(project: Project, url: str, user: str, password: str) -> _DagStates:
    import httpx

    from pipelines.platform.preparation import expected_dags
    from pipelines.platform.rest import AirflowApi

    api: AirflowApi | None = None
    try:
        api = AirflowApi(url, user=user, password=password, attempts=1, timeout_seconds=TIMEOUT_SECONDS)
        found = api.dags(tag=project.name)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return _unreachable(url, f"{url} does not respond ({error})", _CHECK_LOGIN)
    except (ValueError, KeyError):
        return _unreachable(url, f"{url} responds, but not with Airflow's API", _CHECK_LOGIN)
    except RuntimeError as error:
        return _unreachable(url, str(error).rstrip("."), _CHECK_LOGIN)
    finally:
        if api is not None:
            api.close()
    wanted = sorted(expected_dags(project))
    return _DagStates(
        reachable=True,
        url=url,
        paused_dags=tuple(dag_id for dag_id in wanted if found.get(dag_id)),
        missing_dags=tuple(dag_id for dag_id in wanted if dag_id not in found),
    )


def _unreachable(url: str, reason: str, next_step: str) -> _DagStates:
    return _DagStates(reachable=False, url=url, problem=f"Airflow is not reachable: {reason}. {next_step}")
