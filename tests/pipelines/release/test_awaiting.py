"""Versions that wait for a decision, read from a real registry, decision log and ledger."""

import json
from typing import Any

import pytest

from pipelines.release.awaiting import awaiting_judgement, overdue
from pipelines.release.champion import ledger
from pipelines.release.champion.versions import read_version
from pipelines.release.gate import decision_log
from pipelines.release.registration.candidates import register
from pipelines.store.storage import open_store
from pipelines.tracking import registry
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def listed(world: Any) -> list[int]:
    return awaiting_judgement(Workspace(world.project, world.settings))


def make_champion(world: Any, candidate: Any) -> None:
    """Record in the ledger that the version became champion."""
    known = ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings))
    ledger.append(
        world.project.name,
        open_store(world.settings.store_uri, world.settings),
        actor="ada",
        action="promote",
        from_version=known[-1].to_version if known else None,
        to_version=candidate.version,
        weights_digest=candidate.weights_digest,
        decision_digest=None,
        report_uri=None,
    )


def test_versions_without_a_decision_are_listed_newest_first(world: Any) -> None:
    assert listed(world) == [], "the model does not exist yet"
    candidates = [world.register(name) for name in ("a", "b", "c", "d")]
    assert listed(world) == [4, 3, 2, 1]
    world.decide(candidates[2], None)
    world.decide(candidates[1], None, verdict="invalid", reasons=("no judge may vote",))
    assert listed(world) == [4, 1], "every verdict is a decision, `invalid` too"


def test_a_version_from_before_the_present_champion_still_waits(world: Any) -> None:
    world.register("a")
    champion = world.register("b")
    world.decide(champion, None)
    make_champion(world, champion)
    assert listed(world) == [1]


def test_weights_that_were_champion_do_not_come_up_again(world: Any) -> None:
    """Their runs end before the gate, without a decision: a list of versions without one would name them forever."""
    first, second = world.register("a"), world.register("b")
    for candidate in (first, second):
        make_champion(world, candidate)
    tags = registry.version_tags(world.settings, world.project.name, second.version) or {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find_version", lambda *_args, **_named: None)
        result = world.train("b2").model_copy(
            update={"uri": tags["weights.uri"], "weights_digest": second.weights_digest}
        )
        again = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert (again.version, again.weights_digest) == (3, second.weights_digest)
    assert listed(world) == []


def test_a_decision_counts_for_the_weights_that_it_was_made_about(world: Any) -> None:
    """A model that was deleted and made again numbers its versions from 1 again."""
    candidate = world.register("a")
    world.decide(candidate.model_copy(update={"weights_digest": "e" * 64}), None)
    assert listed(world) == [1]
    world.decide(candidate, None)
    assert listed(world) == []


def test_no_version_is_overdue_while_the_gate_is_off(world: Any) -> None:
    world.register("a")
    section = world.project.reconcile.model_copy(update={"unjudged_hours": 1e-9})
    project = world.project.model_copy(update={"reconcile": section})
    assert "has waited for the gate" in overdue(Workspace(project, world.settings))
    off = project.model_copy(update={"gate": project.gate.model_copy(update={"mode": "off"})})
    assert overdue(Workspace(off, world.settings)) == ""


def test_a_deleted_version_waits_for_nothing(world: Any) -> None:
    world.register("a")
    world.register("b")
    registry.delete_version(world.settings, world.project.name, 2)
    assert listed(world) == [1]


def test_log_lines_that_name_no_version_are_read_through_their_decision(world: Any) -> None:
    """The lines of releases before this one hold only the digest of the decision."""
    judged, lost = world.register("a"), world.register("b")
    for candidate in (judged, lost):
        decision = world.decide(candidate, None)
    folder = ("evaluations", "decisions", world.project.name)
    for uri in world.store.list_uris(world.store.uri(*folder, "order")):
        line = json.loads(world.store.read_bytes(uri))
        world.store.write_bytes(uri, json.dumps({name: line[name] for name in ("decision_digest", "at")}).encode())
    assert listed(world) == []
    world.store.write_bytes(world.store.uri(*folder, f"{decision.digest}.json"), b"{ cut short")
    assert listed(world) == [lost.version], "a decision that cannot be read is none, and does not stop the others"
    assert read_version(Workspace(world.project, world.settings), lost.version) == lost


def test_the_decision_log_names_every_version_it_is_about(world: Any) -> None:
    candidate = world.register("a")
    world.decide(candidate, None)
    [line] = world.store.list_uris(world.store.uri("evaluations", "decisions", world.project.name, "order"))
    kept = json.loads(world.store.read_bytes(line))
    assert (kept["version"], kept["weights_digest"]) == (1, candidate.weights_digest)
    assert decision_log.judged_versions(Workspace(world.project, world.settings)) == {(1, candidate.weights_digest)}
