"""While the gate is off a person promotes, everything is verified and recorded, and the version stays marked."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.contracts.release import LedgerEntry
from pipelines.platform.doctor import diagnose
from pipelines.project.approval import Approver
from pipelines.release.champion import ledger
from pipelines.release.champion.state import LEDGER_TAG, read_state
from pipelines.release.champion.versions import TRAINED_BY_TAG
from pipelines.release.promotion import by_hand
from pipelines.release.promotion.by_hand import promote_by_hand
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.reconcile import reconcile
from pipelines.release.promotion.rollback import rollback
from pipelines.release.registration.pruning import prune
from pipelines.release.status import status
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def off(world: Any) -> Workspace:
    """The workspace of a project whose gate is off."""
    return workspace_of(world, "off")


def workspace_of(world: Any, mode: str, **changes: Any) -> Workspace:
    gate = world.project.gate.model_copy(update={"mode": mode})
    return Workspace(world.project.model_copy(update={"gate": gate, **changes}), world.settings)


def aliases(world: Any) -> dict[str, int]:
    found = registry.aliases(world.settings, world.project.name)
    return {name: version for name, version in found.items() if name != "candidate"}


def entries(world: Any) -> tuple[LedgerEntry, ...]:
    return ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings))


def tags_of(world: Any, version: int) -> dict[str, str]:
    return registry.version_tags(world.settings, world.project.name, version) or {}


def test_a_person_promotes_while_the_gate_is_off_and_all_of_it_is_on_record(world: Any, off: Workspace) -> None:
    world.register("a")
    candidate = world.register("b")
    moved = promote_by_hand(off, "ada", "better hands")
    assert (moved.moved, moved.outcome, moved.from_version, moved.to_version) == (True, "promoted_by_hand", None, 2)
    assert (moved.decision_digest, moved.ledger_entry) == (None, 1)
    assert aliases(world) == {"champion": 2}
    (entry,) = entries(world)
    assert (entry.action, entry.actor, entry.reason) == ("by_hand", "ada", "better hands")
    assert (entry.weights_digest, entry.decision_digest) == (candidate.weights_digest, None)
    assert reconcile(off, "tester").state == "agrees"
    again = promote_by_hand(off, "bob", "again", version=2)
    assert (again.moved, again.outcome) == (False, "unchanged")
    assert "already is the champion, promoted by hand, ungated, by ada" in again.message
    assert len(entries(world)) == 1
    assert promote_by_hand(off, "bob", "the older one", version=1).to_version == 1
    assert aliases(world) == {"champion": 1, "previous_champion": 2}
    assert prune(off, keep=0)["deleted"] == []


def test_it_is_marked_as_ungated_wherever_it_is_shown(world: Any, off: Workspace) -> None:
    world.register("a")
    promote_by_hand(off, "ada", "better *hands*")
    tags, name = tags_of(world, 1), world.project.name
    assert [tags[key] for key in ("gate.verdict", "gate.mode", "gate.decision_digest")] == ["ungated", "off", ""]
    assert "by hand, ungated" in ledger.table(entries(world))
    assert "ungated" in status(off)["champion"]
    card = world.store.read_bytes(tags["gate.report_uri"]).decode()
    assert "**Ungated.** ada promoted this version by hand" in card
    assert r"better \*hands\*" in card
    assert "The gate never judged it" in card
    with runs.connect(world.settings.tracking_uri) as client:
        assert client.get_model_version(name, "1").description.startswith("**ungated**")
        run_id = runs.parent_run(world.settings, project=name, key=f"{name} version 1", tags={})
        page = client.get_run(run_id).data.tags
        assert [file.path for file in client.list_artifacts(run_id, "gate")] == ["gate/model_card.md"]
    assert (page["gate.verdict"], page["gate.report_uri"]) == ("ungated", tags["gate.report_uri"])
    found = {check.name: check.found for check in diagnose(off.project, off.settings)}
    assert "WARNING: it is ungated, promoted by hand, ungated, by ada" in found["champion"]
    assert "promote --by-hand" in found["gate"]


def test_the_gate_warns_that_the_champion_is_ungated(world: Any, off: Workspace) -> None:
    first = world.register("a")
    promote_by_hand(off, "ada", "better hands")
    decision = world.decide(world.register("b"), first)
    (check,) = [check for check in decision.checks if check.kind == "ungated_champion"]
    assert (check.note, check.decisive) == ("warning", False)
    assert "by ada" in check.explanation
    assert promote(decision, workspace_of(world, "enforce"), "tester").moved
    third = world.decide(world.register("c"), decision.candidate)
    assert not [check for check in third.checks if check.kind == "ungated_champion"]


def test_the_card_names_the_gates_earlier_decision(world: Any, off: Workspace) -> None:
    decision = world.decide(world.register("a"), None, verdict="hold", reasons=("worse",))
    promote_by_hand(off, "ada", "the judges are wrong")
    card = world.store.read_bytes(tags_of(world, 1)["gate.report_uri"]).decode()
    assert f"before that, was **hold**: `{decision.report_uri}`" in card


# --- rollback and reconcile -----------------------------------------------------------------------------------------


def test_a_rollback_leaves_it_and_returns_to_it(world: Any, off: Workspace) -> None:
    for name in ("a", "b", "c"):
        world.register(name)
        promote_by_hand(off, "ada", f"try {name}")
    assert ledger.promoted_versions(entries(world)) == (3, 2, 1)
    assert rollback(off, "bob", "black images").to_version == 2
    assert tags_of(world, 2)["gate.verdict"] == "ungated"
    assert reconcile(off, "tester").state == "agrees"
    assert rollback(off, "bob", "older", to_version=1).to_version == 1
    assert rollback(off, "bob", "newer", to_version=3, forward=True).to_version == 3
    assert rollback(off, "bob", "base", to_base=True).to_version is None
    assert aliases(world) == {}


def test_weights_that_a_rollback_left_return_only_with_forward(world: Any, off: Workspace) -> None:
    for name in ("a", "b"):
        world.register(name)
        promote_by_hand(off, "ada", f"try {name}")
    rollback(off, "bob", "black images")
    with pytest.raises(ValueError, match=r"rolled back by bob .*black images.*Nothing was moved.*add --forward"):
        promote_by_hand(off, "ada", "still better", version=2)
    assert aliases(world)["champion"] == 1
    assert promote_by_hand(off, "ada", "it was the sampler", version=2, forward=True).moved
    assert aliases(world) == {"champion": 2, "previous_champion": 1}


def test_versions_of_the_gate_and_by_hand_form_one_history(world: Any, off: Workspace) -> None:
    enforced = workspace_of(world, "enforce")
    first = world.register("a")
    assert promote(world.decide(first, None), enforced, "tester").moved
    world.register("b")
    promote_by_hand(off, "ada", "better hands")
    assert (tags_of(world, 1)["gate.verdict"], tags_of(world, 2)["gate.verdict"]) == ("promote", "ungated")
    assert rollback(enforced, "bob", "worse after all").to_version == 1
    assert tags_of(world, 1)["gate.verdict"] == "promote"
    promote_by_hand(off, "ada", "again", version=2, forward=True)
    promote_by_hand(off, "ada", "the first was better", version=1)
    assert tags_of(world, 1)["gate.verdict"] == "ungated"
    assert ledger.promotion_of(entries(world), 1, gated=True) == entries(world)[0]
    assert ledger.promotion_of(entries(world), 1) == entries(world)[-1]


@pytest.mark.parametrize("where", ["set_alias", "set_version_tags"])
def test_an_interrupted_promotion_is_completed(
    world: Any, off: Workspace, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register("a")
    with monkeypatch.context() as broken:
        broken.setattr(registry, where, fail)
        with pytest.raises(RuntimeError, match="killed"):
            promote_by_hand(off, "ada", "better hands")
    assert read_state(world.project.name, world.settings).unfinished
    moved = promote_by_hand(off, "ada", "better hands")
    assert (moved.moved, moved.to_version) == (True, 1)
    assert "completed an interrupted promotion by hand" in moved.message
    assert len(entries(world)) == 1
    assert tags_of(world, 1)[LEDGER_TAG].startswith("1 ")


def test_reconcile_completes_an_interrupted_promotion(
    world: Any, off: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register("a")
    with monkeypatch.context() as broken:
        broken.setattr(by_hand, "settle", fail)
        with pytest.raises(RuntimeError, match="killed"):
            promote_by_hand(off, "ada", "better hands")
    assert reconcile(off, "tester").state == "finished"
    assert aliases(world) == {"champion": 1}
    assert tags_of(world, 1)["gate.verdict"] == "ungated"


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("killed")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["enforce", "dry_run"])
def test_it_is_refused_while_the_gate_is_on(world: Any, mode: str) -> None:
    world.register("a")
    with pytest.raises(ValueError, match=f"is '{mode}', so the gate decides.*mode = \"off\" in \\[gate\\]"):
        promote_by_hand(workspace_of(world, mode), "ada", "better hands")
    assert aliases(world) == {}
    assert entries(world) == ()


def test_it_needs_a_reason_an_actor_and_a_version(world: Any, off: Workspace) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        promote_by_hand(off, "ada", "better hands")
    world.register("a")
    with pytest.raises(ValueError, match="The reason is empty"):
        promote_by_hand(off, "ada", " ")
    with pytest.raises(ValueError, match="The actor is empty"):
        promote_by_hand(off, "", "better hands")
    with pytest.raises(ValueError, match=r"no version 7. Name one of its versions: 1"):
        promote_by_hand(off, "ada", "better hands", version=7)
    assert entries(world) == ()


def test_changed_weights_are_refused(world: Any, off: Workspace) -> None:
    candidate = world.register("a")
    folder = Path(urlsplit(candidate.weights_uri).path) / "weights"
    next(folder.glob("*.safetensors")).write_bytes(b"other")
    with pytest.raises(ValueError, match="was changed or damaged after it was published"):
        promote_by_hand(off, "ada", "better hands")
    assert (aliases(world), entries(world)) == ({}, ())


def test_an_alias_that_was_moved_outside_is_refused(world: Any, off: Workspace) -> None:
    world.register("a")
    registry.set_alias(world.settings, world.project.name, "champion", 1)
    with pytest.raises(ValueError, match="someone moved it by hand"):
        promote_by_hand(off, "ada", "better hands")
    assert entries(world) == ()


def test_the_approvers_of_a_project_alone_promote_by_hand_and_not_what_they_trained(world: Any) -> None:
    table = world.project.approval.model_copy(
        update={"mode": "required", "approvers": (Approver(id="carol", aliases=("cc",)), Approver(id="dan"))}
    )
    asking = workspace_of(world, "off", approval=table)
    world.register("a")
    registry.set_version_tags(world.settings, world.project.name, 1, {TRAINED_BY_TAG: "cc"})
    with pytest.raises(ValueError, match=r"ada may not promote by hand: .* names carol, dan"):
        promote_by_hand(asking, "ada", "better hands")
    with pytest.raises(ValueError, match="carol trained version 1"):
        promote_by_hand(asking, "carol", "better hands")
    assert entries(world) == ()
    assert promote_by_hand(asking, "dan", "better hands").moved
