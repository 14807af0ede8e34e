"""The table [monitor] of a project file."""

import pytest

from alignment.config import validate
from pipelines.project.monitor import MonitorSection


def test_limits_are_checked_and_unknown_fields_reported() -> None:
    assert validate(MonitorSection, {"retrain_every_days": 0, "schedule": "@hourly"}, what="x").schedule == "@hourly"
    with pytest.raises(ValueError, match="maximum_drift"):
        validate(MonitorSection, {"maximum_drift": 1.5}, what="x")
    with pytest.raises(ValueError, match="Did you mean 'retrain_every_days'"):
        validate(MonitorSection, {"retrain_every_day": 3}, what="x")
