"""Reasons for which a run of the train DAG trains although fewer than `snapshot.minimum_new_pairs` are new."""

from collections.abc import Iterable
from typing import Any


def ignores_minimum(dag_run: Any, events: Iterable[Any] | None) -> bool:
    """Return True for a run that the clock started (`schedule.train`), and for one that the monitor requested."""
    by_clock = getattr(dag_run, "run_type", None) == "scheduled"
    return by_clock or any(asset.name.endswith(".retrain") for asset in events or ())
