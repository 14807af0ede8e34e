"""Cron expressions and presets of a project's DAGs, validated when the project is read. Airflow-free."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator

PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
"""Short forms that Airflow resolves to a cron expression."""
ONLY_AIRFLOW = ("@once", "@continuous")
"""Airflow's presets that are not cron expressions; allowed for a DAG that has no other trigger."""
_SINCE = datetime(2000, 1, 1, tzinfo=UTC)


def _check_cron(text: str) -> str:
    """Return a cron expression or preset unchanged; ValueError when it is neither, or matches no date."""
    from croniter import CroniterError, croniter

    if text in PRESETS:
        return text
    try:
        croniter(text, _SINCE).get_next()
    except CroniterError as error:
        raise ValueError(
            f"not a cron expression: {str(error).rstrip('.')}. Write five fields (minute, hour, day of month, month,"
            f' day of week), e.g. "0 3 * * 1", or one of {", ".join(PRESETS)}'
        ) from error
    return text


def _check_schedule(text: str) -> str:
    """Return the schedule unchanged: @once, @continuous or what `_check_cron` accepts; ValueError otherwise."""
    return text if text in ONLY_AIRFLOW else _check_cron(text)


def _check_timezone(name: str) -> str:
    """Return the name of a time zone unchanged, or empty; ValueError with the nearest names when there is none."""
    from difflib import get_close_matches
    from zoneinfo import available_timezones

    if name and name not in (known := available_timezones()):
        near = get_close_matches(name, sorted(known), n=3)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Give a name such as 'Europe/Berlin'."
        raise ValueError(f"unknown time zone {name!r}. {hint}")
    return name


Cron = Annotated[str, AfterValidator(_check_cron)]
"""A schedule that recurs."""
Schedule = Annotated[str, AfterValidator(_check_schedule)]
"""Any schedule that Airflow accepts as text."""
Timezone = Annotated[str, AfterValidator(_check_timezone)]
"""A name of the time zone database, or empty."""
