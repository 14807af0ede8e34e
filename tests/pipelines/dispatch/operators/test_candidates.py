"""Arguments of the run that follows a run of the promote DAG."""

import re
from types import SimpleNamespace
from typing import Any

from pipelines.dispatch.operators.candidates import following_run, is_anonymous

RUN = "asset_triggered__2026-06-01T00:00:00+00:00"


def context(params: Any, run_id: str, *, user: str | None = None, posted: bool = False) -> dict[str, Any]:
    events = {"candidate": [SimpleNamespace(extra={"from_rest_api": True} if posted else {})]}
    run = SimpleNamespace(run_id=run_id, triggering_user_name=user)
    return {"params": params, "dag_run": run, "triggering_asset_events": events}


def test_a_run_starts_the_next_one_while_versions_are_left() -> None:
    [first] = following_run([6, 5, 4], context(None, RUN))
    assert first == {"conf": {"tried": [6]}, "trigger_run_id": f"after_version_6__{RUN}"}
    [second] = following_run([5, 4], context(first["conf"], first["trigger_run_id"]))
    assert second == {"conf": {"tried": [6, 5]}, "trigger_run_id": f"after_version_5__{RUN}"}
    assert following_run([4], context(second["conf"], second["trigger_run_id"])) == []


def test_a_retry_starts_the_same_run_and_another_event_a_different_one() -> None:
    assert following_run([6, 5], context({}, RUN)) == following_run([6, 5], context({}, RUN))
    [first] = following_run([6, 5], context({}, RUN))
    [second] = following_run([6, 5], context({}, "asset_triggered__later"))
    assert first["trigger_run_id"] != second["trigger_run_id"]


def test_a_series_that_an_unknown_person_started_stays_anonymous_to_its_end() -> None:
    [first] = following_run([6, 5, 4], context({}, RUN, posted=True))
    assert first["conf"] == {"tried": [6], "anonymous": True}
    [second] = following_run([5, 4], context(first["conf"], first["trigger_run_id"]))
    assert second["conf"] == {"tried": [6, 5], "anonymous": True}
    assert is_anonymous(context(second["conf"], second["trigger_run_id"]))
    assert not is_anonymous(context({"anonymous": True}, "manual__1", user="ada")), "Ada is recorded"


def test_run_ids_are_ones_that_airflow_accepts() -> None:
    """Airflow reserves the prefixes of its run types, limits the characters and cuts ids off at 250."""
    run_id, tried = RUN, dict[str, Any]()
    for version in range(999, 900, -1):
        [following] = following_run([version, 1], context(tried, run_id))
        run_id, tried = following["trigger_run_id"], following["conf"]
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,80}", run_id)
        assert not run_id.startswith(("asset_triggered__", "scheduled__", "manual__", "backfill__"))
