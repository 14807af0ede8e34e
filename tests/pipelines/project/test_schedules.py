"""Cron expressions and presets are checked when the project is read."""

import re
from pathlib import Path

import pytest

from pipelines.commands import cli
from pipelines.project.file import load_project
from pipelines.project.schedules import _check_cron, _check_schedule, _check_timezone

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"
FIELDS = ("schedule.ingest", "schedule.train", "schedule.reward", "schedule.reconcile", "monitor.schedule")
GOOD = ("0 3 * * 1", "*/15 * * * *", "0 3 * * mon-fri", "0 0 29 2 *", "@hourly", "@weekly", "@quarterly", "@yearly")
BAD = ("", "weekly", "@weakly", "61 * * * *", "* * * *", "0 0 31 2 *", "H H * * *")


def project_with(folder: Path, field: str, text: str) -> Path:
    """The shapes project with one schedule field."""
    table, name = field.split(".")
    path = folder / "shapes.toml"
    path.write_text(f'extends = ["{SHAPES}"]\n[{table}]\n{name} = "{text}"\n')
    return path


@pytest.mark.parametrize("text", GOOD)
def test_cron_and_presets_are_accepted_as_written(text: str) -> None:
    assert _check_cron(text) == _check_schedule(text) == text


@pytest.mark.parametrize("text", BAD)
def test_invalid_cron_is_refused_with_the_allowed_forms(text: str) -> None:
    for check in (_check_cron, _check_schedule):
        with pytest.raises(ValueError, match=r"not a cron expression.*five fields.*@weekly"):
            check(text)


@pytest.mark.parametrize("field", FIELDS)
def test_every_schedule_field_is_checked_when_the_project_is_read(field: str, tmp_path: Path) -> None:
    path = project_with(tmp_path, field, "61 * * * *")
    with pytest.raises(ValueError, match=re.escape(f"{path}: {field}: not a cron expression")):
        load_project(path)
    assert load_project(project_with(tmp_path, field, "@weekly")).name == "shapes"


def test_an_invalid_cron_is_bad_input_for_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(project_with(tmp_path, "schedule.train", "@weakly"))]) == 2
    error = capsys.readouterr().err
    assert "schedule.train" in error
    assert "'@weakly'" in error


@pytest.mark.parametrize("preset", ["@once", "@continuous"])
def test_training_by_the_clock_has_to_recur(preset: str) -> None:
    assert _check_schedule(preset) == preset, "Airflow knows it"
    with pytest.raises(ValueError, match="not a cron expression"):
        _check_cron(preset)


def test_airflow_accepts_the_presets_that_we_do() -> None:
    from airflow.sdk import CronTriggerTimetable
    from airflow.serialization.encoders import coerce_to_core_timetable

    from pipelines.project.schedules import PRESETS

    for preset in PRESETS:
        coerce_to_core_timetable(CronTriggerTimetable(preset, timezone="UTC")).validate()


def test_a_time_zone_is_known_or_the_nearest_are_named() -> None:
    assert _check_timezone("") == ""
    assert _check_timezone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match=r"unknown time zone 'Europe/Berln'\. Did you mean 'Europe/Berlin'"):
        _check_timezone("Europe/Berln")
    with pytest.raises(ValueError, match=r"unknown time zone 'x'\. Give a name such as 'Europe/Berlin'"):
        _check_timezone("x")
