"""Status reports the champion, and names inconsistencies instead of failing on them."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.release.gate.decision_log import save_decision
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import rollback
from pipelines.release.registration.candidates import register
from pipelines.release.status import status
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_before_anything_happened_all_is_null_and_agrees(world: Any) -> None:
    assert status(Workspace(world.project, world.settings)) == {
        "project": world.project.name,
        "champion": None,
        "previous_champion": None,
        "candidate": None,
        "last_decision": None,
        "data_report": None,
        "ledger": {"entries": 0, "agrees_with_aliases": True},
        "compute": {"gpu_hours": 0.0, "cpu_hours": 0.0, "cost": {}},
        "problems": [],
    }


def test_after_two_promotions_and_a_rollback(world: Any) -> None:
    first = world.register("a")
    promote(world.decide(first, None), Workspace(world.project, world.settings), "tester")
    second = world.register("b")
    decision = world.decide(second, first)
    save_decision(decision, Workspace(world.project, world.settings))
    promote(decision, Workspace(world.project, world.settings), "tester")
    assert status(Workspace(world.project, world.settings))["champion"] == {
        "version": 2,
        "weights_digest": second.weights_digest,
    }
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    now = status(Workspace(world.project, world.settings))
    assert now["champion"] == {"version": 1, "weights_digest": first.weights_digest}
    assert now["previous_champion"] is None, "before version 1 there was the base model"
    assert now["candidate"] == {"version": 2, "weights_digest": second.weights_digest}
    assert (now["last_decision"]["verdict"], now["last_decision"]["report_uri"]) == ("promote", decision.report_uri)
    assert now["ledger"] == {"entries": 3, "agrees_with_aliases": True}
    assert now["problems"] == []


def test_a_version_whose_training_made_the_chosen_images_worse_has_a_warning(world: Any) -> None:
    workspace = Workspace(world.project, world.settings)
    spoiled = world.train("a").model_copy(update={"final_metrics": {"chosen_worse_steps": 52.0}})
    register(spoiled, workspace, snapshot=world.snapshot, run_id=world.run_id)
    assert "for 52 steps in a row" in status(workspace)["candidate"]["warning"]


def test_a_deleted_champion_is_named(world: Any) -> None:
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    with runs.connect(world.settings.tracking_uri) as client:
        client.delete_model_version(world.project.name, "1")
    now = status(Workspace(world.project, world.settings))
    assert now["champion"] is None
    assert now["ledger"] == {"entries": 1, "agrees_with_aliases": False}
    assert "was deleted" in now["problems"][0]


def test_an_alias_moved_by_hand_is_named(world: Any) -> None:
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    world.register("b")
    registry.set_alias(world.settings, world.project.name, "champion", 2)
    now = status(Workspace(world.project, world.settings))
    assert now["champion"]["version"] == 2
    assert now["ledger"] == {"entries": 1, "agrees_with_aliases": False}
    assert "moved it by hand" in now["problems"][0]


def test_a_tampered_ledger_is_named(world: Any) -> None:
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    path = Path(urlsplit(world.store.uri("ledger", world.project.name, "000001.json")).path)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"model"', '"modul"'))
    now = status(Workspace(world.project, world.settings))
    assert now["ledger"] == {"entries": None, "agrees_with_aliases": False}
    assert "entry 1 is not readable" in now["problems"][0]
