"""The chain of asset-triggered runs, followed through a fake API client."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.platform import follow
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
