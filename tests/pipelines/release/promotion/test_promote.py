"""The alias moves when everything fits, and only then: each check is broken once, and each crash is survived."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.contracts.release import Approval, GateDecision, LedgerEntry
from pipelines.project.approval import Approver
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion import approval, verification
from pipelines.release.promotion.promote import left_by_rollback, promote
from pipelines.release.promotion.rollback import rollback
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


APPROVERS = (Approver(id="carol"),)


def aliases(world: Any) -> dict[str, int]:
    with runs.connect(world.settings.tracking_uri) as client:
        found = client.get_registered_model(world.project.name).aliases
    return {name: int(version) for name, version in found.items() if name != "candidate"}


def entries(world: Any) -> tuple[LedgerEntry, ...]:
    return ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings))


def champion(world: Any, name: str, over: Any = None) -> Any:
    """Register weights and make them champion."""
    candidate = world.register(name)
    moved = promote(world.decide(candidate, over), Workspace(world.project, world.settings), "tester")
    assert moved.moved
    return candidate


def delete_version(world: Any, version: int) -> None:
    with runs.connect(world.settings.tracking_uri) as client:
        client.delete_model_version(world.project.name, str(version))


# --- the straight way -----------------------------------------------------------------------------------------------


def test_a_good_candidate_becomes_champion_and_the_move_is_on_record(world: Any) -> None:
    first = champion(world, "a")
    assert aliases(world) == {"champion": 1}
    second = world.register("b")
    decision = world.decide(second, first)
    moved = promote(decision, Workspace(world.project, world.settings), "tester")
    assert (moved.moved, moved.from_version, moved.to_version, moved.ledger_entry) == (True, 1, 2, 2)
    assert moved.decision_digest == decision.digest
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    last = entries(world)[-1]
    assert (last.actor, last.action, last.from_version, last.to_version) == ("tester", "promote", 1, 2)
    assert (last.decision_digest, last.report_uri) == (decision.digest, decision.report_uri)
    assert last.weights_digest == second.weights_digest
    tags = registry.version_tags(world.settings, world.project.name, 2)
    assert tags is not None
    assert tags["gate.verdict"] == "promote"
    assert tags["gate.report_uri"] == decision.report_uri
    assert tags["gate.decision_digest"] == decision.digest
    assert tags["champion.by"] == "tester"
    assert read_version(Workspace(world.project, world.settings), "champion") == second


def test_the_preset_small_promotes_nothing_without_a_person(world: Any) -> None:
    """Not even where the project was changed after it was read, so that it names no approvers."""
    policy = world.project.gate.model_copy(update={"preset": "small"})
    world.project = world.project.model_copy(update={"gate": policy})
    workspace = Workspace(world.project, world.settings)
    decision = world.decide(world.register("a"), None)
    assert decision.verdict == "promote"
    forged = Approval(decision_digest=decision.digest, answer="approve", by="carol", at=datetime.now(UTC))
    for answer in (None, forged):
        moved = promote(decision, workspace, "tester", approval=answer)
        assert (moved.moved, moved.outcome) == (False, "rejected")
    assert aliases(world) == {}
    asking = world.project.approval.model_copy(update={"mode": "required", "approvers": APPROVERS})
    asked = Workspace(world.project.model_copy(update={"approval": asking}), world.settings)
    assert promote(decision, asked, "tester").outcome == "rejected"
    assert promote(decision, asked, "carol", approval=forged).outcome == "rejected"
    assert promote(decision, asked, "tester", approval=forged).moved
    assert entries(world)[-1].approver == "carol"


def test_a_decision_of_version_2_moves_the_alias_under_its_own_digest(world: Any) -> None:
    decision = world.decide(world.register("a"), None, schema_version=2)
    assert "name" in decision.model_dump(mode="json")["checks"][0]
    received = GateDecision.model_validate(decision.model_dump(mode="json"))
    assert promote(received, Workspace(world.project, world.settings), "tester").moved
    assert entries(world)[-1].decision_digest == decision.digest


def test_a_deleted_entry_is_noticed_although_the_aliases_were_set_back_with_it(world: Any) -> None:
    first = champion(world, "a")
    champion(world, "b", over=first)
    (Path(urlsplit(world.store.uri("ledger", world.project.name)).path) / "000002.json").unlink()
    registry.set_alias(world.settings, world.project.name, "champion", 1)
    registry.delete_alias(world.settings, world.project.name, "previous_champion")
    state = read_state(world.project.name, world.settings)
    assert state.cut_off
    assert "Version 2" in state.problem
    assert "entries were changed or removed" in state.problem


def rolled_back_world(world: Any) -> tuple[Any, Any]:
    """Versions 1 and 2 were champions; version 2 was rolled back. Return both."""
    first = champion(world, "a")
    second = world.register("b")
    workspace = Workspace(world.project, world.settings)
    assert promote(world.decide(second, first), workspace, "tester").moved
    rollback(workspace, "ada", "black images")
    return first, second


def test_weights_that_were_rolled_back_do_not_return_by_themselves(world: Any) -> None:
    """A new decision about them, after another policy or other dates of a calibration, is not a person's consent."""
    first, second = rolled_back_world(world)
    again = world.decide(second, first, report_uri="file:///second/look.html")
    result = promote(again, Workspace(world.project, world.settings), "tester")
    assert (result.moved, result.outcome, result.to_version) == (False, "held", 1)
    assert "rolled back by ada" in result.message
    assert "black images" in result.message
    assert "--forward" in result.message
    assert aliases(world)["champion"] == 1


def test_a_person_may_bring_them_back(world: Any) -> None:
    first, second = rolled_back_world(world)
    workspace = Workspace(world.project, world.settings)
    assert rollback(workspace, "bob", "it was the sampler", forward=True).to_version == 2
    rollback(workspace, "bob", "to try the gate", to_version=1)
    assert aliases(world)["champion"] == 1
    assert left_by_rollback(second, workspace, entries(world)) == entries(world)[-1]
    policy = world.project.approval.model_copy(update={"mode": "borderline", "approvers": APPROVERS})
    asking = Workspace(world.project.model_copy(update={"approval": policy}), world.settings)
    decision = world.decide(second, first, report_uri="file:///second/look.html")
    assert promote(decision, asking, "tester").outcome == "rejected"
    reason = approval.needed(
        policy, decision, left_by_rollback(second, asking, entries(world)), gate=asking.project.gate
    )
    assert reason.startswith("A person left these weights")
    assert "to try the gate" in reason
    agreed = Approval(decision_digest=decision.digest, answer="approve", by="carol", at=datetime.now(UTC))
    result = promote(decision, asking, "tester", approval=agreed)
    assert (result.moved, aliases(world)["champion"]) == (True, 2)
    assert left_by_rollback(second, asking, entries(world)) is None
    assert entries(world)[-1].approver == "carol"


def test_an_average_with_rolled_back_weights_does_not_return_by_itself(world: Any) -> None:
    first, second = rolled_back_world(world)
    soup = world.register("soup")
    registry.set_version_tags(
        world.settings, world.project.name, soup.version, {"soup.ingredients": json.dumps([second.weights_digest])}
    )
    result = promote(world.decide(soup, first), Workspace(world.project, world.settings), "tester")
    assert (result.moved, result.outcome) == (False, "held")


def test_promoting_the_champion_again_moves_nothing(world: Any) -> None:
    candidate = champion(world, "a")
    for decision in (world.decide(candidate, None), world.decide(candidate, candidate, verdict="hold")):
        again = promote(decision, Workspace(world.project, world.settings), "tester")
        assert (again.moved, again.to_version, again.ledger_entry) == (False, 1, 1)
        assert "already is the champion" in again.message
    assert len(entries(world)) == 1
    tags = registry.version_tags(world.settings, world.project.name, 1)
    assert tags is not None
    assert tags["gate.verdict"] == "promote"


# --- policy and verdict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["hold", "inconclusive", "invalid"])
def test_another_verdict_moves_nothing_and_is_recorded(world: Any, verdict: str) -> None:
    decision = world.decide(world.register("a"), None, verdict=verdict, reasons=("taste_a lost.",))
    answer = promote(decision, Workspace(world.project, world.settings), "tester")
    assert not answer.moved
    assert answer.message == f"the gate's verdict is {verdict}: taste_a lost."
    assert (aliases(world), entries(world)) == ({}, ())
    tags = registry.version_tags(world.settings, world.project.name, 1)
    assert tags is not None
    assert tags["gate.verdict"] == verdict


@pytest.mark.parametrize("mode", ["off", "dry_run"])
@pytest.mark.parametrize("where", ["decision", "project"])
def test_off_and_dry_run_move_nothing_and_report_it(world: Any, mode: str, where: str) -> None:
    candidate = world.register("a")
    gate = world.project.gate.model_copy(update={"mode": mode})
    project = world.project.model_copy(update={"gate": gate}) if where == "project" else world.project
    decision = world.decide(candidate, None, **({"mode": mode} if where == "decision" else {}))
    answer = promote(decision, Workspace(project, world.settings), "tester")
    assert not answer.moved
    assert f"its mode is `{mode}`" in answer.message
    assert (aliases(world), entries(world)) == ({}, ())


# --- something does not fit -----------------------------------------------------------------------------------------


def change_candidate(**changes: Any) -> Callable[[Any, Any], Any]:
    return lambda world, decision: decision.model_copy(
        update={"candidate": decision.candidate.model_copy(update=changes)}
    )


def change_decision(**changes: Any) -> Callable[[Any, Any], Any]:
    return lambda world, decision: decision.model_copy(update=changes)


def damage(folder: str, pattern: str) -> Callable[[Any, Any], Any]:
    """Overwrite a byte of a stored file, its manifest left as it is."""

    def broken(world: Any, decision: Any) -> Any:
        root = Path(urlsplit(world.store.uri(folder)).path)
        (path,) = root.glob(pattern)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        return decision

    return broken


def damage_served(world: Any, decision: Any) -> Any:
    """Change the weights in MLflow's own artifact store."""
    with runs.connect(world.settings.tracking_uri) as client:
        model_id = client.get_model_version(world.project.name, "1").source.rsplit("/", 1)[-1]
        client.log_model_artifacts(model_id, str(other_weights(world)))
    return decision


def other_weights(world: Any) -> Path:
    folder = Path(world.folder) / "other"
    file = folder / "artifacts/weights/pytorch_lora_weights.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    return folder


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (change_candidate(weights_digest="a" * 64), "its weights_digest is"),
        (change_candidate(base_digest="a" * 64), "its base_digest is"),
        (change_candidate(trained_on=()), "its trained_on is"),
        (change_candidate(version=9), "the version is not in the registry"),
        (change_candidate(model="another"), "decision is about a version of 'another'"),
        (change_decision(policy_digest="a" * 64), "policy was changed after the decision"),
        (change_decision(scores_digest="a" * 64), "scores in .* are not those of the decision"),
        (change_decision(evaluation_uri="file:///nowhere"), "evaluation in file:///nowhere is no longer in the store"),
        (change_decision(champion_version=3), "lead to invalid .* the champion is version 3"),
        (change_decision(champion_weights_digest="a" * 64), r"lead to invalid .* the base model \(aaaaaaaaaaaa\)"),
        (change_decision(report_digest="a" * 64), "report in .* is not that of the decision"),
        (damage("jobs", "a/weights/*"), "changed or damaged"),
        (damage_served, "MLflow serves weights with digest"),
    ],
)
def test_a_mismatch_with_the_decision_stops_the_move(
    world: Any, break_it: Callable[[Any, Any], Any], complaint: str
) -> None:
    """Even where the changed decision is put into the store as one that the gate made."""
    decision = world.kept(break_it(world, world.decide(world.register("a"), None)))
    with pytest.raises(ValueError, match=complaint):
        promote(decision, Workspace(world.project, world.settings), "tester")
    assert (aliases(world), entries(world)) == ({}, ())


def test_scores_replaced_behind_the_manifest_stop_the_move(world: Any) -> None:
    decision = world.decide(world.register("a"), None)
    path = Path(urlsplit(decision.evaluation_uri).path) / "scores.parquet"
    path.chmod(0o644)
    path.write_bytes(b"better scores")
    with pytest.raises(ValueError, match=r"scores in .* are not those of the decision"):
        promote(decision, Workspace(world.project, world.settings), "tester")
    assert entries(world) == ()


def test_a_champion_that_changed_since_the_evaluation_stops_the_move(world: Any) -> None:
    late = world.decide(world.register("b"), None)
    champion(world, "a")
    with pytest.raises(ValueError, match=r"champion .* is version 2 .* evaluated against the base model"):
        promote(late, Workspace(world.project, world.settings), "tester")
    assert aliases(world) == {"champion": 2}


def test_a_champion_that_changes_while_weights_are_hashed_stops_the_move(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = world.register("b"), world.register("a")
    decision = world.decide(slow, None)

    def overtaken(*arguments: Any) -> None:
        monkeypatch.undo()
        promote(world.decide(fast, None), Workspace(world.project, world.settings), "faster")

    monkeypatch.setattr(verification, "check_weights", overtaken)
    with pytest.raises(ValueError, match="evaluated against the base model"):
        promote(decision, Workspace(world.project, world.settings), "slower")
    assert [entry.actor for entry in entries(world)] == ["faster"]


def test_an_alias_moved_by_hand_stops_every_move(world: Any) -> None:
    first = champion(world, "a")
    second = champion(world, "b", first)
    registry.set_alias(world.settings, world.project.name, "champion", 1)
    third = world.register("c")
    for act in (
        lambda: promote(world.decide(third, first), Workspace(world.project, world.settings), "tester"),
        lambda: rollback(Workspace(world.project, world.settings), "tester", "reason"),
        lambda: read_version(Workspace(world.project, world.settings), "champion"),
    ):
        with pytest.raises(ValueError, match=f"moved it by hand.*back at version {second.version}"):
            act()
    assert len(entries(world)) == 2


def test_a_ledger_that_lost_its_end_stops_every_move(world: Any) -> None:
    first = champion(world, "a")
    champion(world, "b", first)
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    folder = Path(urlsplit(world.store.uri("ledger", world.project.name)).path)
    for sequence in (2, 3):
        (folder / f"{sequence:06d}.json").unlink()
    with pytest.raises(ValueError, match="entries were changed or removed"):
        rollback(Workspace(world.project, world.settings), "tester", "again")


def test_a_promotion_reports_a_later_move(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = champion(world, "a")
    decision = world.decide(world.register("b"), first)
    append = ledger.append

    def overtaken(*arguments: Any, **facts: Any) -> LedgerEntry:
        monkeypatch.undo()
        entry = append(*arguments, **facts)
        rollback(Workspace(world.project, world.settings), "faster", "too dark", to_base=True)
        return entry

    monkeypatch.setattr(ledger, "append", overtaken)
    moved = promote(decision, Workspace(world.project, world.settings), "tester")
    assert (moved.moved, moved.to_version, moved.ledger_entry) == (True, 2, 2)
    assert moved.message == (
        "promoted: version 1 -> version 2; then ledger entry 3 (rollback by faster) moved it to the base model"
    )
    assert aliases(world) == {}


def test_a_decision_is_carried_out_once(world: Any) -> None:
    first = champion(world, "a")
    second = world.register("b")
    decision = world.decide(second, first)
    promote(decision, Workspace(world.project, world.settings), "tester")
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    again = promote(decision, Workspace(world.project, world.settings), "tester")
    assert (again.moved, again.ledger_entry) == (False, 2)
    assert aliases(world)["champion"] == first.version


# --- deleted versions -----------------------------------------------------------------------------------------------


def test_a_deleted_champion_stops_promotion_until_a_rollback(world: Any) -> None:
    first = champion(world, "a")
    champion(world, "b", first)
    third = world.register("c")
    delete_version(world, 2)
    with pytest.raises(ValueError, match=r"Version 2 .* was deleted .*plumbline rollback"):
        promote(world.decide(third, first), Workspace(world.project, world.settings), "tester")
    with pytest.raises(ValueError, match="was deleted"):
        read_version(Workspace(world.project, world.settings), "champion")
    assert aliases(world) == {"previous_champion": 1}
    moved = rollback(Workspace(world.project, world.settings), "tester", "version 2 was deleted")
    assert (moved.from_version, moved.to_version) == (2, 1)
    assert aliases(world) == {"champion": 1}
    assert promote(world.decide(third, first), Workspace(world.project, world.settings), "tester").moved


def test_an_alias_that_names_a_deleted_version_is_explained(world: Any, mlflow_server: Any) -> None:
    first = champion(world, "a")
    delete_version(world, 1)
    with sqlite3.connect(mlflow_server.database) as database:
        database.execute(
            "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, 'champion', 1)",
            (world.project.name,),
        )
    database.close()
    second = world.register("b")
    with pytest.raises(ValueError, match=r"Alias 'champion' .* names version 1, which was deleted. Nothing was moved"):
        promote(world.decide(second, first), Workspace(world.project, world.settings), "tester")
    moved = rollback(Workspace(world.project, world.settings), "tester", "version 1 was deleted")
    assert (moved.from_version, moved.to_version) == (1, None)
    assert aliases(world) == {}
    assert promote(world.decide(second, None), Workspace(world.project, world.settings), "tester").moved


# --- crashes --------------------------------------------------------------------------------------------------------


CRASHES = [("set_alias", "previous_champion"), ("set_alias", "champion"), ("set_version_tags", "")]


@pytest.mark.parametrize(("function", "alias"), CRASHES)
def test_a_promotion_killed_half_way_is_finished_by_its_retry(
    world: Any, killed_at: Callable[..., Any], function: str, alias: str
) -> None:
    first = champion(world, "a")
    decision = world.decide(world.register("b"), first)
    with killed_at(function, alias):
        promote(decision, Workspace(world.project, world.settings), "tester")
    assert read_state(world.project.name, world.settings).unfinished
    moved = promote(decision, Workspace(world.project, world.settings), "tester")
    assert (moved.moved, moved.from_version, moved.to_version, moved.ledger_entry) == (True, 1, 2, 2)
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    assert len(entries(world)) == 2
    assert not read_state(world.project.name, world.settings).unfinished


def test_another_decision_finds_the_unfinished_move_finished_first(world: Any, killed_at: Callable[..., Any]) -> None:
    first = champion(world, "a")
    second, third = world.register("b"), world.register("c")
    with killed_at("set_alias", "champion"):
        promote(world.decide(second, first), Workspace(world.project, world.settings), "tester")
    with pytest.raises(ValueError, match=r"is version 2 .* evaluated against version 1"):
        promote(world.decide(third, first), Workspace(world.project, world.settings), "tester")
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
