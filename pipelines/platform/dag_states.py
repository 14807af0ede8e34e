"""Read the paused and missing DAGs of a project from Airflow."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from alignment.contracts.values import Record
from pipelines.platform.pool import pool_problem
from pipelines.project.file import Project, load_projects
from pipelines.project.slots import GPU_POOL
from pipelines.settings import Settings
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.platform.rest import AirflowApi

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5
NEXT_STEP = (
    "Start the embedded platform with `plumbline up`, or name your Airflow by PLUMBLINE_AIRFLOW_UI_URL,"
    " PLUMBLINE_AIRFLOW_USER and PLUMBLINE_AIRFLOW_PASSWORD."
)
CHECK_LOGIN = "Check PLUMBLINE_AIRFLOW_UI_URL, PLUMBLINE_AIRFLOW_USER and PLUMBLINE_AIRFLOW_PASSWORD."


class _DagStates(Record):
    """State of one project's DAGs in Airflow."""

    reachable: bool
    url: str = ""
    """Address of the Airflow that was queried; empty when none is known."""
    paused_dags: tuple[str, ...] | None = None
    """Ids of the DAGs that start nothing until a person unpauses them; None when Airflow is not reachable."""
    missing_dags: tuple[str, ...] | None = None
    """Ids of the DAGs that the project should have and Airflow does not know; None when Airflow is not reachable."""
    pool_problem: str = ""
    """Reason why the pool lets Airflow never start a job of the project; empty when it does, or is not known."""
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
        return _unreachable("", "the embedded platform is not running and no other is configured", NEXT_STEP)
    return _ask(workspace.project, _sharing(workspace), *login)


def check_pool(workspace: Workspace) -> None:
    """Raise ValueError if Airflow would never start a job of the project, because of its pool.

    An Airflow that is not known or does not respond is logged: the check is then not made.
    """
    login = airflow_login(workspace.settings)
    if login is None:
        log.info("The pool is not checked: no Airflow is known here. %s", NEXT_STEP)
        return
    states = _ask(workspace.project, _sharing(workspace), *login)
    if not states.reachable:
        log.warning("The pool is not checked. %s", states.problem)
    if states.pool_problem:
        raise ValueError(states.pool_problem)


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


def log_in(url: str, user: str, password: str) -> "AirflowApi":
    """Return a client; ValueError when the server does not respond or is not Airflow's."""
    import httpx

    from pipelines.platform.rest import AirflowApi

    try:
        return AirflowApi(url, user=user, password=password)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ValueError(f"{url} does not respond ({error}). {CHECK_LOGIN}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{url} responds, but not with Airflow's API. {CHECK_LOGIN}") from error


def _sharing(workspace: Workspace) -> list[Project]:
    """Return the projects whose jobs share the pool: this one, and those of this installation that can be loaded."""
    others, _ = load_projects(workspace.settings.projects_dir)
    return [workspace.project, *(other for other in others if other.name != workspace.project.name)]


def _ask(project: Project, sharing: Sequence[Project], url: str, user: str, password: str) -> _DagStates:
    import httpx

    from pipelines.platform.preparation import expected_dags
    from pipelines.platform.rest import AirflowApi

    api: AirflowApi | None = None
    try:
        api = AirflowApi(url, user=user, password=password, attempts=1, timeout_seconds=TIMEOUT_SECONDS)
        found = api.dags(tag=project.name)
        pool = _pool_problem(api, sharing)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return _unreachable(url, f"{url} does not respond ({error})", CHECK_LOGIN)
    except (ValueError, KeyError):
        return _unreachable(url, f"{url} responds, but not with Airflow's API", CHECK_LOGIN)
    except RuntimeError as error:
        return _unreachable(url, str(error).rstrip("."), CHECK_LOGIN)
    finally:
        if api is not None:
            api.close()
    wanted = sorted(expected_dags(project))
    return _DagStates(
        reachable=True,
        url=url,
        paused_dags=tuple(dag_id for dag_id in wanted if found.get(dag_id)),
        missing_dags=tuple(dag_id for dag_id in wanted if dag_id not in found),
        pool_problem=pool,
    )


def _pool_problem(api: "AirflowApi", projects: Sequence[Project]) -> str:
    """Return the fault of the pool; empty without one, and where this user may not read pools."""
    from pipelines.platform.rest import ForbiddenError

    try:
        return pool_problem(api.pool(GPU_POOL), projects)
    except ForbiddenError as error:
        log.info("%s", error)
        return ""


def _unreachable(url: str, reason: str, next_step: str) -> _DagStates:
    return _DagStates(reachable=False, url=url, problem=f"Airflow is not reachable: {reason}. {next_step}")
