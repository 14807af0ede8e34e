"""Verdicts of the gate are counted, read once each, and a changed decision is named as unreadable."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.platform.exporter import decisions
from pipelines.platform.exporter.metrics import Reading
from pipelines.store.disk import DiskBackend

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def values(reading: Reading, metric: str) -> dict[str, float]:
    found = decisions.read(reading)
    return {s.labels[-1]: s.value for s in found if s.metric.name == f"plumbline_gate_{metric}" and s.value}


def test_verdicts_are_counted_and_the_newest_is_marked(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(world.settings, world.project)
    assert values(reading, "decisions_total") == values(reading, "last_verdict") == {}
    candidate = world.register("a")
    world.decide(candidate, None)
    world.decide(candidate, None, verdict="invalid", reasons=("a judge has no calibration",))
    assert values(reading, "decisions_total") == {"promote": 1, "invalid": 1}
    assert values(reading, "last_verdict") == {"invalid": 1}
    reads = []
    read = DiskBackend.read
    monkeypatch.setattr(DiskBackend, "read", lambda self, uri: (reads.append(uri), read(self, uri))[1])
    assert values(reading, "decisions_total") == {"promote": 1, "invalid": 1}
    assert reads == [], "a decision that was counted is not read again"


def test_a_changed_decision_is_unreadable(world: Any) -> None:
    decision = world.decide(world.register("a"), None)
    path = Path(urlsplit(world.store.uri("evaluations/decisions", world.project.name, f"{decision.digest}.json")).path)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"promote"', '"hold"', 1))
    reading = Reading(world.settings, world.project)
    assert values(reading, "decisions_total") == values(reading, "last_verdict") == {"unreadable": 1}
