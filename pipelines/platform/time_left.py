"""Estimate of the minutes that a demo still takes, from how long its stages usually take and took so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

USUAL_SECONDS: Mapping[str, float] = {"platform": 30, "ingest": 25, "train": 75, "promote": 80}
"""Stages of the demo in their order, with their usual time on two cores."""


@dataclass
class StageClock:
    """Times of the stages so far. `now` is a monotonic clock's seconds."""

    usual: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_SECONDS))
    _began: dict[str, float] = field(default_factory=dict)

    def begin(self, stage: str, now: float) -> None:
        """Note that a stage begins, and that those before it have ended."""
        self._began.setdefault(stage, now)

    def seconds_left(self, now: float) -> float:
        """Return the estimate: the usual time of what is left, at the pace of the stages that have ended."""
        if not self._began:
            return sum(self.usual.values())
        current = list(self._began)[-1]
        first, began = next(iter(self._began.values())), self._began[current]
        names = list(self.usual)
        ended, later = names[: names.index(current)], names[names.index(current) + 1 :]
        usual_so_far = sum(self.usual[name] for name in ended)
        pace = (began - first) / usual_so_far if usual_so_far else 1.0
        return pace * sum(self.usual[name] for name in later) + max(0.0, pace * self.usual[current] - (now - began))


def in_words(seconds: float) -> str:
    """Return the time left for people, never more exact than it is."""
    if seconds < 45:
        return "less than a minute left"
    minutes = round(seconds / 60)
    return f"about {max(minutes, 1)} min left"
