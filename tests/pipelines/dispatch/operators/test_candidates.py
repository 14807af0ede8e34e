"""Which versions a run judges and sets off, told by events such as the tasks `register` raise."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

from pipelines.dispatch.operators.candidates import runs_for_others, version_to_judge

RUN = "asset_triggered__2026-06-01T00:00:00+00:00"


def events(*extras: dict[str, Any]) -> TriggeringAssetEventsAccessor:
    """What Airflow hands to a run that these events set off."""
    asset = {"name": "shapes.candidate", "uri": "plumbline://shapes/candidate", "extra": {}}
    source = {
        "source_dag_id": "shapes.train",
        "source_task_id": "register",
        "source_run_id": "r",
        "source_map_index": 0,
    }
    common = {"asset": asset, "source_aliases": [], "timestamp": datetime(2026, 6, 1, tzinfo=UTC), **source}
    return TriggeringAssetEventsAccessor.build(
        AssetEventDagRunReferenceResult.model_validate({**common, "extra": extra}) for extra in extras
    )


def test_the_newest_is_judged_and_each_other_gets_a_run() -> None:
    told = events({"version": 4}, {"version": 6}, {"version": 5}, {"version": 4})
    assert version_to_judge({"version": 0}, told) == 6
    assert runs_for_others({"version": 0}, told, RUN) == [
        {"conf": {"version": 5}, "trigger_run_id": f"version_5__{RUN}"},
        {"conf": {"version": 4}, "trigger_run_id": f"version_4__{RUN}"},
    ]


def test_one_candidate_sets_off_nothing() -> None:
    assert version_to_judge({"version": 0}, events({"version": 4})) == 4
    assert runs_for_others({"version": 0}, events({"version": 4}), RUN) == []


def test_a_run_by_hand_judges_what_it_was_given_or_the_alias() -> None:
    assert version_to_judge({"version": 3}, {}) == 3
    assert runs_for_others({"version": 3}, {}, "manual__1") == []
    assert version_to_judge({"version": 0}, {}) is None
    assert version_to_judge(None, None) is None


def test_an_event_that_names_no_version_leaves_it_to_the_alias() -> None:
    assert version_to_judge({"version": 0}, events({})) is None
    assert runs_for_others({"version": 0}, events({}), RUN) == []
    assert version_to_judge({"version": 0}, events({}, {"version": 2})) == 2
