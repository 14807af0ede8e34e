"""The table [monitor] of a project: schedule and limits of the checks on the champion.

docs/monitoring.md explains every field. The limits on judges are in [gate].
"""

from typing import Annotated

from pydantic import Field

from alignment.contracts.values import Record, Share
from pipelines.project.schedules import Schedule


class MonitorSection(Record):
    """Schedule and limits of the monitor."""

    schedule: Schedule | None = "@daily"
    """Cron expression or preset of the monitor DAG; none: only by hand."""
    minimum_fresh_pairs: Annotated[int, Field(gt=0)] = 100
    """Fewest pairs outside the champion's training data from which drift and preference are measured. With fewer they
    are reported as unmeasured."""
    maximum_drift: Share = 0.2
    """Smallest effect that counts as drift: Kolmogorov-Smirnov distance of a number, Cramer's V of a category."""
    drift_level: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Probability of reporting drift when there is none, over all columns together (Holm)."""
    minimum_champion_win_rate: Share = 0.5
    """The monitor asks for a retraining once the champion's win rate among people is shown to be below this."""
    champion_generators: tuple[str, ...] = ()
    """Generator names of the champion in pairs, besides NAME/VERSION, NAME:VERSION and the digest of its weights."""
    retrain_every_days: Annotated[float, Field(ge=0)] = 7
    """Shortest time between two announced retrainings, in days."""
