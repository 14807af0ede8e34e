"""The table [monitor] of a project: how often the champion is looked at, and what counts as trouble.

docs/monitoring.md explains every field. Limits on judges are those of [gate].
"""

from typing import Annotated

from pydantic import Field

from alignment.contracts.values import Record, Share
from pipelines.project.schedules import Schedule


class MonitorSection(Record):
    """Schedule and limits of the monitor."""

    schedule: Schedule | None = "@daily"
    """Cron expression or preset of the monitor DAG; none: by hand."""
    minimum_fresh_pairs: Annotated[int, Field(gt=0)] = 100
    """Pairs that the champion was not trained on; with fewer, drift and preference are reported as unmeasured."""
    maximum_drift: Share = 0.2
    """Effect from which a shift counts: Kolmogorov-Smirnov distance of a number, Cramer's V of a category."""
    drift_level: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Chance of calling drift where there is none, over all columns together (Holm)."""
    minimum_champion_win_rate: Share = 0.5
    """Retraining is wanted once people's win rate of the champion's images is shown to lie below this."""
    champion_generators: tuple[str, ...] = ()
    """Names by which pairs call the champion's images, besides NAME/VERSION, NAME:VERSION and its weights' digest."""
    retrain_every_days: Annotated[float, Field(ge=0)] = 7
    """At most one retraining is announced within so many days."""
