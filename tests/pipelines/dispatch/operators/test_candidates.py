"""Arguments of the run that follows a run of the promote DAG."""

import re

from pipelines.dispatch.operators.candidates import following_run

RUN = "asset_triggered__2026-06-01T00:00:00+00:00"


def test_a_run_starts_the_next_one_while_versions_are_left() -> None:
    [first] = following_run([6, 5, 4], None, RUN)
    assert first == {"conf": {"tried": [6]}, "trigger_run_id": f"after_version_6__{RUN}"}
    [second] = following_run([5, 4], first["conf"], first["trigger_run_id"])
    assert second == {"conf": {"tried": [6, 5]}, "trigger_run_id": f"after_version_5__{RUN}"}
    assert following_run([4], second["conf"], second["trigger_run_id"]) == []


def test_a_retry_starts_the_same_run_and_another_event_a_different_one() -> None:
    assert following_run([6, 5], {}, RUN) == following_run([6, 5], {}, RUN)
    [first], [second] = following_run([6, 5], {}, RUN), following_run([6, 5], {}, "asset_triggered__later")
    assert first["trigger_run_id"] != second["trigger_run_id"]


def test_run_ids_are_ones_that_airflow_accepts() -> None:
    """Airflow reserves the prefixes of its run types, limits the characters and cuts ids off at 250."""
    run_id, tried = RUN, dict[str, list[int]]()
    for version in range(999, 900, -1):
        [following] = following_run([version, 1], tried, run_id)
        run_id, tried = following["trigger_run_id"], following["conf"]
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,80}", run_id)
        assert not run_id.startswith(("asset_triggered__", "scheduled__", "manual__", "backfill__"))
