"""Runs that train although fewer than the minimum of new pairs came in."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.dispatch.operators.starts import ignores_minimum

NEW_PAIRS: Any = [SimpleNamespace(name="shapes.pairs")]
RETRAIN: Any = [SimpleNamespace(name="shapes.retrain")]


@pytest.mark.parametrize(
    ("run_type", "events", "expected"),
    [
        ("scheduled", None, True),
        ("scheduled", [], True),
        ("asset_triggered", NEW_PAIRS, False),
        ("asset_triggered", RETRAIN, True),
        ("asset_triggered", [*NEW_PAIRS, *RETRAIN], True),
        ("manual", None, False),
    ],
)
def test_clock_and_monitor_train_at_once(run_type: str, events: Any, expected: bool) -> None:
    assert ignores_minimum(SimpleNamespace(run_type=run_type), events) is expected


def test_airflows_run_type_of_a_cron_run_is_scheduled() -> None:
    from airflow.utils.types import DagRunType

    assert ignores_minimum(SimpleNamespace(run_type=DagRunType.SCHEDULED), None)
