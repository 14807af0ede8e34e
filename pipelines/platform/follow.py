"""Follow a chain of DAG runs linked by assets, and show its progress."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.contracts.jobs import JobStatus
from pipelines.platform import running_jobs
from pipelines.platform.rest import AirflowApi
from pipelines.platform.time_left import StageClock, in_words
from pipelines.settings import Settings

POLL_SECONDS = 1.0
LINK_TIMEOUT_SECONDS = 120
RUN_TIMEOUT_SECONDS = 1800
UNFINISHED = {"queued", "running"}
STARTING = "starting"
MARKS = {"success": "[green]done[/]", "failed": "[red]failed[/]", "skipped": "[dim]skipped[/]"}


class _ChainError(RuntimeError):
    """A DAG run of the chain failed; the message ends with the log of the failed task."""


@dataclass
class View:
    """Progress on the screen: a live table on a terminal, one line per change elsewhere."""

    settings: Settings
    console: Console = field(default_factory=lambda: Console(file=sys.stderr))
    rows: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)
    clock: StageClock = field(default_factory=StageClock)
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator["View"]:
        """Keep the table on the screen while the chain runs."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(self._table(), console=self.console, refresh_per_second=2) as self._live:
            yield self

    def begin(self, stage: str) -> None:
        """Note that a stage begins; without a live table, print the time left."""
        self.clock.begin(stage, time.monotonic())
        if not self.console.is_terminal:
            left = in_words(self.clock.seconds_left(time.monotonic()))
            self.console.print(f"{stage}: {left}", highlight=False)

    def platform_news(self, text: str) -> None:
        """Show what the platform is doing before its first task runs."""
        self._show(("platform", text, -1), "running", "")

    def platform_ready(self, addresses: str) -> None:
        """Mark what the platform was doing as done, and show where it is."""
        for key in [key for key in self.rows if key[0] == "platform"]:
            self._show(key, "success", "")
        self._show(("platform", addresses, -1), "success", "")

    def _show(self, key: tuple[str, str, int], state: str, detail: str) -> None:
        if not self.console.is_terminal and _is_news(self.rows.get(key, ("", "")), (state, detail)):
            self.console.print(f"{_name(key):<34} {state:<10} {detail}".rstrip(), highlight=False)
        self.rows[key] = (state, detail)
        if self._live is not None:
            self._live.update(self._table())

    def update(self, dag_id: str, tasks: list[dict[str, Any]]) -> None:
        """Show the tasks of a run and the progress of the running job."""
        jobs = running_jobs.running(self.settings)
        for task in tasks:
            key = (dag_id, task["task_id"], task["map_index"])
            state = str(task["state"] or "waiting")
            detail = _progress(dag_id, task["task_id"], jobs) if state == "deferred" else _duration(task)
            self._show(key, state, detail)

    def _table(self) -> Table:
        left = in_words(self.clock.seconds_left(time.monotonic()))
        table = Table("task", "state", "", box=None, pad_edge=False, caption=left, caption_justify="left")
        for key, (state, detail) in self.rows.items():
            table.add_row(_name(key), MARKS.get(state, state), detail)
        return table


def follow_run(api: AirflowApi, dag_id: str, run_id: str, view: View) -> None:
    """Wait for a run to succeed; ChainError with the failed task's log, TimeoutError when it takes too long."""
    deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        state = api.run(dag_id, run_id)["state"]
        tasks = api.tasks(dag_id, run_id)
        view.update(dag_id, tasks)
        if state == "success":
            return
        if state == "failed":
            failed = [task for task in tasks if task["state"] == "failed"]
            logs = "\n".join(f"--- {t['task_id']}:\n{api.log_tail(dag_id, run_id, t)}" for t in failed[:1])
            raise _ChainError(f"{dag_id} failed at {', '.join(t['task_id'] for t in failed) or 'no task'}.\n{logs}")
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{dag_id} {run_id} took longer than {RUN_TIMEOUT_SECONDS} s.")


def finish_earlier(api: AirflowApi, dag_id: str, before: datetime, view: View) -> bool:
    """Follow the unfinished runs queued before this time, for example by an interrupted demo; True when there was one.

    A DAG runs one at a time, so the run that is waited for cannot start before they end. Their result is irrelevant:
    the new run does the same work, or finds it done.
    """
    left = [run for run in api.runs(dag_id) if run["state"] in UNFINISHED and _queued(run) < before]
    for run in sorted(left, key=_queued):
        with suppress(_ChainError):
            follow_run(api, dag_id, str(run["dag_run_id"]), view)
    return bool(left)


def next_run(api: AirflowApi, dag_id: str, since: datetime, view: View) -> str:
    """Return the run that an asset event triggered after `since`; TimeoutError when none appears."""
    deadline = time.monotonic() + LINK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if finish_earlier(api, dag_id, since, view):
            deadline = time.monotonic() + LINK_TIMEOUT_SECONDS
        for run in api.runs(dag_id):
            if run["run_type"] == "asset_triggered" and _queued(run) >= since:
                return str(run["dag_run_id"])
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"No run of {dag_id} was triggered within {LINK_TIMEOUT_SECONDS} s.")


def now() -> datetime:
    """Return the present time minus a moment: the database may round."""
    return datetime.now(UTC) - timedelta(seconds=1)


def _queued(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat((run["queued_at"] or run["run_after"]).replace("Z", "+00:00"))


def _name(key: tuple[str, str, int]) -> str:
    dag_id, task_id, map_index = key
    return f"{dag_id} {task_id}" + (f" [{map_index}]" if map_index >= 0 else "")


def _progress(dag_id: str, task_id: str, jobs: Mapping[str, JobStatus]) -> str:
    """Return the units done of those wanted by the jobs of a task; `starting` until a job has counted them."""
    kind = "draw_pairs" if task_id.startswith("draw_") else task_id
    own = f"{dag_id.partition('.')[0]}-{kind}-"
    counts = [status for job_id, status in jobs.items() if job_id.startswith(own)]
    texts = [
        f"{s.progress_done}/{s.progress_total} {s.progress_unit}" if s.progress_total else STARTING for s in counts
    ]
    return ", ".join(texts) or STARTING


def _is_news(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Return True for a change that is a line where there is no live table: a new state, and the first count."""
    return before[0] != now[0] or (before[1] == STARTING and now[1] != STARTING)


def _duration(task: dict[str, Any]) -> str:
    seconds = task.get("duration")
    return f"{seconds:.0f} s" if seconds else ""
