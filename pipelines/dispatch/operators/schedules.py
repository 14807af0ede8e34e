"""Schedules of a project as Airflow's timetables, in the project's time zone."""

from airflow import settings as airflow_settings
from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

from pipelines.project.file import Project
from pipelines.project.schedules import ONLY_AIRFLOW


def clock(project: Project, schedule: str | None) -> str | CronTriggerTimetable | None:
    """Return a schedule in the project's time zone; unchanged where it has none, or the schedule names no time."""
    if schedule is None or not project.schedule.timezone or schedule in ONLY_AIRFLOW:
        return schedule
    return CronTriggerTimetable(schedule, timezone=project.schedule.timezone)


def assets_or_clock(project: Project, assets: AssetAny, schedule: str | None) -> AssetAny | AssetOrTimeSchedule:
    """Return a schedule that starts on any of these assets and, if given, by the clock."""
    if schedule is None:
        return assets
    zone = project.schedule.timezone or airflow_settings.TIMEZONE
    return AssetOrTimeSchedule(assets=assets, timetable=CronTriggerTimetable(schedule, timezone=zone))
