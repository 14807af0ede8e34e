"""The chain of asset-triggered runs, followed through a fake API client."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.contracts.jobs import JobStatus
from pipelines.platform import follow, running_jobs
from pipelines.platform.time_left import StageClock
from pipelines.settings import load_settings

START = datetime(2026, 1, 1, tzinfo=UTC)


class OneAtATime:
    """A DAG whose awaited run is only created when the unfinished one has ended, as with max_active_runs=1."""

    def __init__(self, *, left_over: bool, ends: str = "success") -> None:
        self.ends = ends
        self.left = [run("left", "running", -60)] if left_over else []
        self.followed: list[str] = []

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        if any(found["state"] == "running" for found in self.left):
            return self.left
        return [run("awaited", "queued", 5), *self.left]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        self.followed.append(run_id)
        self.left[0]["state"] = self.ends
        return self.left[0]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return []


def run(name: str, state: str, seconds: float) -> dict[str, Any]:
    queued = (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return {"dag_run_id": name, "state": state, "run_type": "asset_triggered", "queued_at": queued, "run_after": queued}


@pytest.mark.parametrize(("left_over", "ends"), [(False, ""), (True, "success"), (True, "failed")])
def test_an_unfinished_run_is_followed_before_the_awaited_one(tmp_path: Path, left_over: bool, ends: str) -> None:
    api, view = (
        OneAtATime(left_over=left_over, ends=ends),
        follow.View(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})),
    )
    assert follow.next_run(api, "shapes.train", START, view) == "awaited"  # type: ignore[arg-type]
    assert api.followed == (["left"] if left_over else [])


def test_a_run_that_never_starts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LINK_TIMEOUT_SECONDS", 0)
    view = follow.View(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)}))
    with pytest.raises(TimeoutError, match=r"No run of shapes\.train was triggered within 0 s"):
        follow.next_run(OneAtATime(left_over=False), "shapes.train", START, view)  # type: ignore[arg-type]


def test_the_line_of_a_task_counts_what_its_job_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = JobStatus(state="running", progress_done=3, progress_total=9, progress_unit="images")
    found = {"shapes-train-aa-g0": JobStatus(state="running"), "shapes-train_reward-bb-g0": other}
    monkeypatch.setattr(running_jobs, "running", lambda _: found)
    output = StringIO()
    view = follow.View(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)}), Console(file=output, width=100))
    train = {"task_id": "train", "map_index": 0, "state": "deferred", "duration": None}
    view.update("shapes.train", [train])
    view.update("shapes.train", [train])
    for done in (0, 5, 6):
        count = {"progress_done": done, "progress_total": 200, "progress_unit": "steps"}
        found["shapes-train-aa-g0"] = found["shapes-train-aa-g0"].model_copy(update=count)
        view.update("shapes.train", [train])
    shown = [" ".join(line.split()) for line in output.getvalue().splitlines()]
    assert shown == ["shapes.train train [0] deferred starting", "shapes.train train [0] deferred 0/200 steps"]
    assert view.rows[("shapes.train", "train", 0)] == ("deferred", "6/200 steps")


def test_the_platforms_start_and_the_time_left_are_shown_from_the_beginning(tmp_path: Path) -> None:
    output = StringIO()
    usual = {"platform": 100.0, "ingest": 100.0}
    view = follow.View(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)}), Console(file=output, width=100))
    view.clock = StageClock(usual)
    view.begin("platform")
    view.platform_news("starting MLflow")
    view.platform_news("starting MLflow")
    view.platform_ready("Airflow http://a")
    view.begin("ingest")
    lines = [" ".join(line.split()) for line in output.getvalue().splitlines()]
    assert lines == [
        "platform: about 3 min left",
        "platform starting MLflow running",
        "platform starting MLflow success",
        "platform Airflow http://a success",
        "ingest: less than a minute left",
    ]
    terminal = follow.View(view.settings, Console(file=StringIO(), width=100, force_terminal=True))
    terminal.clock = StageClock(usual)
    with terminal.shown():
        terminal.begin("platform")
        terminal.platform_news("starting MLflow")
    assert "about 3 min left" in terminal.console.file.getvalue()  # type: ignore[attr-defined]
