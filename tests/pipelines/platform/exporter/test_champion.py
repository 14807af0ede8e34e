"""The ledger's samples: agreement, a changed ledger, and a registry that does not answer."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.platform.exporter import champion
from pipelines.platform.exporter.metrics import Reading
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import rollback
from pipelines.tracking.errors import TrackingUnavailable
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def values(reading: Reading) -> dict[str, float]:
    return {sample.metric.name.removeprefix("plumbline_"): sample.value for sample in champion.read(reading)}


def test_moves_are_counted_and_the_base_model_is_version_0(world: Any) -> None:
    reading = Reading(world.settings, world.project)
    before = {"ledger_agrees": 1, "ledger_entries": 0, "champion_version": 0}
    assert values(reading) == before
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    found = values(reading)
    assert found.pop("ledger_last_move_timestamp_seconds") > 1.7e9
    assert found == {"ledger_agrees": 1, "ledger_entries": 1, "champion_version": 1}
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    assert {k: v for k, v in values(reading).items() if "time" not in k} == {**before, "ledger_entries": 2}


def test_a_changed_ledger_disagrees(world: Any) -> None:
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    path = Path(urlsplit(world.store.uri("ledger", world.project.name, "000001.json")).path)
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_version": 7}))
    assert values(Reading(world.settings, world.project)) == {"ledger_agrees": 0}


def test_a_registry_that_does_not_answer_is_an_error_and_no_disagreement(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = world.settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(TrackingUnavailable):
        champion.read(Reading(away, world.project))
