"""Which candidates a run of the promote DAG is about, as the asset's events or the run's parameters name them.

One training registers several versions, and each is judged by a run of its own, one after another, against whoever is
champion by then. A run judges the newest of those that it was told of, and sets off a run for each of the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def version_to_judge(params: Mapping[str, Any] | None, events: Mapping[Any, Sequence[Any]] | None) -> int | None:
    """The version that the run was given by hand, or the newest that its events name; None: neither names one."""
    given = int((params or {}).get("version") or 0)
    return given or next(iter(_announced(events)), None)


def runs_for_others(
    params: Mapping[str, Any] | None, events: Mapping[Any, Sequence[Any]] | None, run_id: str
) -> list[dict[str, Any]]:
    """Arguments of a TriggerDagRunOperator per version that this run was told of and does not judge, newest first.

    The ids are made of version and run, so that a retry sets off nothing twice. (Airflow keeps ids that begin with
    `asset_triggered__` for itself.)
    """
    own = version_to_judge(params, events)
    return [
        {"conf": {"version": version}, "trigger_run_id": f"version_{version}__{run_id}"}
        for version in _announced(events)
        if version != own
    ]


def _announced(events: Mapping[Any, Sequence[Any]] | None) -> list[int]:
    """Versions that the events carry, newest first, each once; an event raised by hand may carry none."""
    carried = [event.extra.get("version") for own in (events or {}).values() for event in own if event.extra]
    return sorted({int(version) for version in carried if version}, reverse=True)
