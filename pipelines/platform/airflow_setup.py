"""`plumbline setup-airflow`: prepare an Airflow that you run yourself. Repeated, it changes nothing more."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from alignment.contracts.values import Record
from pipelines.platform import dag_states
from pipelines.platform.pool import slots_in_words
from pipelines.platform.rest import AirflowApi, ForbiddenError
from pipelines.project.file import Project, load_projects
from pipelines.project.slots import GPU_POOL, largest_job
from pipelines.settings import Settings

PLACEHOLDER_HOST = "fill-in.invalid"
"""Host of a connection that still has to be filled in; the domain .invalid exists nowhere."""
_PLACEHOLDER = "Made by plumbline setup-airflow as a placeholder. Fill in host, login and password."
_ADMINISTRATOR = (
    "Set PLUMBLINE_AIRFLOW_USER and PLUMBLINE_AIRFLOW_PASSWORD to those of an administrator for this command; the"
    " platform itself needs no more than a user who may read."
)


class _Connection(Record):
    """A connection that a project's notifications use."""

    connection: str
    kind: str
    projects: tuple[str, ...]
    state: str
    """`made as a placeholder`, `still a placeholder`, or `exists`."""


class _AirflowSetup(Record):
    """The state that was found, the changes made, and the work that is left."""

    airflow: str
    pool: str
    connections: tuple[_Connection, ...]
    auth_manager: str
    problems: tuple[str, ...]
    """Work and decisions that are left to a person, in sentences; empty if there are none."""


def setup_airflow(settings: Settings, *, slots: int | None = None) -> _AirflowSetup:
    """Make the pool and the connections' placeholders, and check how users log in.

    `slots`: size of the pool; None: the processes of the largest job, and never fewer than it has. ValueError when no
    Airflow is known, `slots` is too small, or this user may not change pools; RuntimeError when Airflow refuses.
    """
    projects, problems = load_projects(settings.projects_dir)
    wanted = _wanted_slots(projects, slots)
    login = dag_states.airflow_login(settings)
    if login is None:
        raise ValueError(f"No Airflow is known. {dag_states.NEXT_STEP}")
    url, user, password = login
    with closing(dag_states.log_in(url, user, password)) as api:
        try:
            pool = _set_up_pool(api, wanted, exact=slots is not None)
            connections = tuple(_set_up_connections(api, projects))
        except ForbiddenError as error:
            raise ValueError(f"User {user!r} may not change pools and connections: {error} {_ADMINISTRATOR}") from error
        kind, faults = _auth_manager(api, embedded=not dag_states.is_configured(settings))
    unfilled = [own.connection for own in connections if own.state != "exists"]
    if unfilled:
        problems.append(
            f"Fill in the connections {', '.join(unfilled)} in Airflow (Admin, Connections); until then their"
            " notifications are not sent."
        )
    return _AirflowSetup(
        airflow=url, pool=pool, connections=connections, auth_manager=kind, problems=(*problems, *faults)
    )


def _wanted_slots(projects: Sequence[Project], slots: int | None) -> int:
    largest = largest_job(projects)
    if slots is not None and slots < largest.slots:
        raise ValueError(
            f"--slots is {slots}, but placement.{largest.placement} of {largest.project!r} has num_processes ="
            f" {largest.slots}. Airflow never starts a task that takes more slots than its pool has. Give at least"
            f" {largest.slots}, or lower num_processes."
        )
    return largest.slots if slots is None else slots


# --- pool and connections -------------------------------------------------------------------------------------------


def _set_up_pool(api: AirflowApi, wanted: int, *, exact: bool) -> str:
    """Create, enlarge or keep the pool; return one sentence. `exact`: also make it smaller."""
    found = api.pool(GPU_POOL)
    have = int(found["slots"]) if found else 0
    enough = have == -1 or have >= wanted
    if found and found["include_deferred"] and (have == wanted if exact else enough):
        return f"{GPU_POOL} has {slots_in_words(have)}, as before"
    size = wanted if exact or not enough else have
    api.ensure_pool(GPU_POOL, slots=size)
    was = f"; it had {slots_in_words(have)}" if found else "; there was none"
    return f"{GPU_POOL} now has {slots_in_words(size)}, and deferred tasks keep theirs{was}"


def _set_up_connections(api: AirflowApi, projects: Sequence[Project]) -> Iterator[_Connection]:
    """Yield the connections of the notifications; those that do not exist are made, others stay as they are."""
    for (name, kind), users in _connections(projects).items():
        found = api.connection(name)
        if found is None:
            body = {"connection_id": name, "conn_type": kind, "host": PLACEHOLDER_HOST, "description": _PLACEHOLDER}
            api.add_connection(body)
        state = "made as a placeholder" if found is None else "exists"
        state = "still a placeholder" if found and found.get("host") == PLACEHOLDER_HOST else state
        yield _Connection(connection=name, kind=kind, projects=tuple(users), state=state)


def _connections(projects: Sequence[Project]) -> Mapping[tuple[str, str], list[str]]:
    """Map id and type of each connection that [notify] names to the projects that use it."""
    found: dict[tuple[str, str], list[str]] = {}
    for project in projects:
        if project.notify.mail is not None:
            found.setdefault((project.notify.mail.connection, "smtp"), []).append(project.name)
        if project.notify.webhook is not None:
            found.setdefault((project.notify.webhook.connection, "http"), []).append(project.name)
    return found


# --- how users log in -----------------------------------------------------------------------------------------------


def _auth_manager(api: AirflowApi, *, embedded: bool) -> tuple[str, list[str]]:
    """Return the auth manager in words, and what is wrong with it; the simple one suits the embedded platform only."""
    kind = api.auth_manager()
    if kind == "open":
        return "simple, without passwords", [
            "Anyone who reaches this Airflow is an administrator, and could approve as anybody: [core]"
            " simple_auth_manager_all_admins is True. Use the FAB auth manager, or set it to False."
        ]
    if kind == "simple" and embedded:
        return "simple", []
    if kind == "simple":
        return "simple", [
            "Airflow uses the simple auth manager, which keeps passwords in a plain file and is for development. In"
            " production set [core] auth_manager to that of the FAB provider, or of your identity provider."
        ]
    return ("FAB" if kind == "fab" else "another one, which was not checked"), []
