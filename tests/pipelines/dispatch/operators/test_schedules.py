"""Timetables of a project: by the clock in its time zone, or as Airflow's own text."""

from pathlib import Path
from typing import Any

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

from pipelines.dispatch.operators.schedules import assets_or_clock, clock
from pipelines.project.file import Project, load_project

SHAPES = Path(__file__).parents[4] / "projects/shapes.toml"


def project(**schedule: Any) -> Project:
    shapes = load_project(SHAPES)
    return shapes.model_copy(update={"schedule": shapes.schedule.model_copy(update=schedule)})


def test_a_project_without_a_time_zone_leaves_the_text_to_airflow() -> None:
    for text in (None, "@daily", "0 3 * * 1", "@once"):
        assert clock(project(), text) == text


def test_a_time_zone_makes_a_timetable_of_what_names_a_time() -> None:
    berlin = project(timezone="Europe/Berlin")
    assert (clock(berlin, None), clock(berlin, "@once"), clock(berlin, "@continuous")) == (None, "@once", "@continuous")
    made = clock(berlin, "0 3 * * 1")
    assert isinstance(made, CronTriggerTimetable)
    assert str(made.timezone) == "Europe/Berlin"


def test_assets_alone_or_beside_the_clock() -> None:
    data = AssetAny(Asset(name="pairs"), Asset(name="retrain"))
    assert assets_or_clock(project(), data, None) is data
    both = assets_or_clock(project(), data, "@weekly")
    assert isinstance(both, AssetOrTimeSchedule)
