"""A thin client of Airflow's public REST API (v2): only what the demo, `doctor` and `setup-airflow` need."""

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import httpx

ATTEMPTS = 5
PAUSE_SECONDS = 2.0
PAGE_SIZE = 100
"""Largest page that Airflow returns unless `[api] maximum_page_limit` differs; it may return fewer."""


class _NotFoundError(RuntimeError):
    """Nothing is at that address."""


class ForbiddenError(RuntimeError):
    """This user may not do that."""


class _ConflictError(RuntimeError):
    """Something with that name exists."""


_ERRORS: dict[int, type[RuntimeError]] = {403: ForbiddenError, 404: _NotFoundError, 409: _ConflictError}


class AirflowApi:
    """Logs in once; every call raises RuntimeError with the server's own message when it is refused, and ForbiddenError
    if this user may not do it.

    A request to a server that is too busy is repeated, except an answer to a question.
    """

    def __init__(
        self, url: str, *, user: str, password: str, attempts: int = ATTEMPTS, timeout_seconds: float = 30
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, trust_env=False)
        self._credentials = {"username": user, "password": password}
        self._attempts = attempts
        try:
            self._login()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create or resize a pool in which a deferred task keeps its slots."""
        body = {"name": name, "slots": slots, "description": "Training hosts", "include_deferred": True}
        for attempts_left in reversed(range(self._attempts)):
            if self.pool(name) is not None:
                self._call("PATCH", f"/api/v2/pools/{name}", json=body)
                return
            try:
                self._call("POST", "/api/v2/pools", json=body)
                return
            except RuntimeError as error:
                # A server that was too busy to answer may have made it: look again before the next attempt.
                if isinstance(error, ForbiddenError) or not attempts_left:
                    raise
                time.sleep(PAUSE_SECONDS)

    def pool(self, name: str) -> dict[str, Any] | None:
        """Return a pool; None when there is none."""
        return self._find(f"/api/v2/pools/{name}")

    def connection(self, connection_id: str) -> dict[str, Any] | None:
        """Return a connection of Airflow's database, without its password; None when there is none."""
        return self._find(f"/api/v2/connections/{connection_id}")

    def add_connection(self, body: dict[str, Any]) -> None:
        """Create a connection."""
        self._call("POST", "/api/v2/connections", json=body)

    def auth_manager(self) -> Literal["open", "simple", "fab", "other"]:
        """Return the kind of auth manager, from the addresses that it serves.

        open: the simple one, which gives everybody an administrator's token.
        """
        answer = self._http.get("/auth/token", headers={"Authorization": ""})
        if answer.status_code == 201:
            return "open"
        if answer.status_code == 403:
            return "simple"
        users = self._http.get("/auth/fab/v1/users", params={"limit": 1})
        return "fab" if users.status_code in (200, 403) else "other"

    def import_errors(self) -> list[str]:
        """Return the errors that Airflow found while it parsed the DAG files."""
        found = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in found]

    def health(self) -> dict[str, Any]:
        """Return the state and last heartbeat of each component."""
        return self._call("GET", "/api/v2/monitor/health")

    def waiting_tasks(self, states: Sequence[str]) -> list[dict[str, Any]]:
        """Return the oldest task instances of all DAGs in these states, at most one page."""
        query = {"state": list(states), "limit": PAGE_SIZE, "order_by": "id"}
        return list(self._call("GET", "/api/v2/dags/~/dagRuns/~/taskInstances", params=query)["task_instances"])

    def dag_ids(self) -> list[str]:
        """Return the id of every parsed DAG."""
        return list(self.dags())

    def dags(self, tag: str = "") -> dict[str, bool]:
        """Return every parsed DAG (with this tag, if one is given): its id, and True when it is paused."""
        found: dict[str, bool] = {}
        wanted = {"tags": [tag]} if tag else {}
        while True:
            query = {"limit": PAGE_SIZE, "offset": len(found), "order_by": "dag_id", **wanted}
            page = self._call("GET", "/api/v2/dags", params=query)
            found |= {dag["dag_id"]: bool(dag["is_paused"]) for dag in page["dags"]}
            if not page["dags"] or len(found) >= page["total_entries"]:
                return found

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run now; return its run id.

        The id is chosen here, so that a repeated request cannot start a second run.
        """
        run_id = f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}_{secrets.token_hex(4)}"
        path, body = f"/api/v2/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        try:
            self._call("POST", path, may_repeat=True, json=body)
        except _ConflictError:
            # A request before may have started the run without an answer.
            if self._find(f"{path}/{run_id}") is None:
                raise
        return run_id

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the last hundred runs of a DAG, the newest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after&limit=100")
        return list(found["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one run."""
        return self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200")
        return list(found["task_instances"])

    def log_tail(self, dag_id: str, run_id: str, task: dict[str, Any], lines: int = 40) -> str:
        """Return the last lines of a task's log."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        content = self._call("GET", path, params={"map_index": task["map_index"], "full_content": True})["content"]
        return "\n".join(_log_line(entry) for entry in content[-lines:])

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return a task's return value."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._call("GET", path, params={"deserialize": False, "stringify": False})["value"]

    def question(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """Return the question of a task that waits for a person's answer."""
        return self._call("GET", _question_path(dag_id, run_id, task_id))

    def respond(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer the question of a waiting task, as the user who is logged in; never sent twice."""
        self._call(
            "PATCH", _question_path(dag_id, run_id, task_id), json={"chosen_options": [option], "params_input": {}}
        )

    def _login(self) -> None:
        response = self._http.post("/auth/token", json=self._credentials)
        if response.status_code not in (200, 201):
            raise RuntimeError(f"Airflow at {self._http.base_url} refused the log-in: {response.text[:300]}")
        self._http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def _call(self, method: str, path: str, *, may_repeat: bool = False, **arguments: Any) -> dict[str, Any]:
        has_one_try = not may_repeat and (method == "POST" or path.endswith("/hitlDetails"))
        for attempt in range(1 if has_one_try else self._attempts):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            response = self._ask(method, path, **arguments)
            if isinstance(response, httpx.Response) and not response.is_error:
                answer: dict[str, Any] = response.json()
                return answer
            if isinstance(response, httpx.Response) and response.status_code < 500:
                break
        reason = (
            f"{response.status_code}: {response.text[:500]}" if isinstance(response, httpx.Response) else repr(response)
        )
        status = response.status_code if isinstance(response, httpx.Response) else 0
        raise _ERRORS.get(status, RuntimeError)(f"Airflow: {method} {path} gave {reason}")

    def _find(self, path: str) -> dict[str, Any] | None:
        """Return what is at an address; None where nothing is."""
        try:
            return self._call("GET", path)
        except _NotFoundError:
            return None

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response | httpx.TransportError:
        """Return the response, or the reason why there was none; an expired log-in is renewed."""
        try:
            response = self._http.request(method, path, **arguments)
            if response.status_code == 401:
                self._login()
                response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            return error
        return response


def _question_path(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"


def _log_line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    extra = {key: value for key, value in entry.items() if key == "error_detail"}
    return f"{entry.get('event', '')} {extra or ''}".rstrip()
