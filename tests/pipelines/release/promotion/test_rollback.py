"""A rollback restores a champion from the ledger, with the promoted weights; a repeated one moves nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.contracts.release import LedgerEntry, Promotion
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.champion.versions import read_version
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import restore, rollback
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def aliases(world: Any) -> dict[str, int]:
    found = registry.aliases(world.settings, world.project.name)
    return {name: version for name, version in found.items() if name != "candidate"}


def entries(world: Any) -> tuple[LedgerEntry, ...]:
    return ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings))


def moves(world: Any) -> list[tuple[str, int | None, int | None]]:
    return [(entry.action, entry.from_version, entry.to_version) for entry in entries(world)]


def champions(world: Any, names: str) -> list[Any]:
    """Register weights and make them champion, one after the other."""
    made: list[Any] = []
    for name in names:
        made.append(world.register(name))
        decision = world.decide(made[-1], made[-2] if len(made) > 1 else None)
        assert promote(decision, Workspace(world.project, world.settings), "tester").moved
    return made


def back(world: Any, reason: str = "too dark", actor: str = "tester", **order: Any) -> Promotion:
    return rollback(Workspace(world.project, world.settings), actor, reason, **order)


def delete_version(world: Any, version: int) -> None:
    registry.delete_version(world.settings, world.project.name, version)


def replace_served(world: Any, version: int, other: str) -> None:
    """Other weights where MLflow serves a version from."""
    folder = world.folder / f"served-{version}"
    shutil.copytree(world.folder / other, folder / "artifacts")
    with runs.connect(world.settings.tracking_uri) as client:
        source = client.get_model_version(world.project.name, str(version)).source
        client.log_model_artifacts(source.removeprefix("models:/"), str(folder))


# --- back, further back, forward --------------------------------------------------------------------------------------


def test_rollback_restores_the_champion_before_and_updates_previous_champion(world: Any) -> None:
    champions(world, "abc")
    assert aliases(world) == {"champion": 3, "previous_champion": 2}
    moved = back(world)
    assert (moved.moved, moved.outcome, moved.from_version, moved.to_version) == (True, "rolled_back", 3, 2)
    assert (moved.decision_digest, moved.message) == (None, "rolled back: version 3 -> version 2")
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    assert (entries(world)[-1].action, entries(world)[-1].reason) == ("rollback", "too dark")


def test_two_people_who_roll_back_at_once_go_back_one_champion(world: Any) -> None:
    champions(world, "abc")
    back(world, actor="ada")
    with pytest.raises(
        ValueError, match=r"rolled back by ada on .* UTC \(too dark\), ledger entry 4: .*Nothing was"
    ) as e:
        back(world, "black images", actor="bob")
    assert "--from-version 2" in str(e.value)
    assert "To restore version 3, roll forward with --forward" in str(e.value)
    again = back(world, actor="ada")
    assert (again.moved, again.outcome, again.to_version, again.ledger_entry) == (False, "unchanged", 2, 4)
    assert "already rolled back by ada" in again.message
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    assert len(entries(world)) == 4


def test_who_names_the_champion_to_leave_goes_on_and_may_ask_again(world: Any) -> None:
    champions(world, "abc")
    assert back(world, from_version=3).to_version == 2
    again = back(world, "other words", from_version=3)
    assert (again.moved, again.to_version, again.ledger_entry) == (False, 2, 4)
    assert back(world, from_version=2).to_version == 1
    with pytest.raises(ValueError, match=r"champion .* is version 1, not version 7"):
        back(world, from_version=7)
    last = back(world, from_version=1)
    assert (last.from_version, last.to_version) == (1, None)
    assert aliases(world) == {}
    assert moves(world)[3:] == [("rollback", 3, 2), ("rollback", 2, 1), ("rollback", 1, None)]


def test_forward_restores_the_version_that_the_last_rollback_left(world: Any) -> None:
    champions(world, "ab")
    with pytest.raises(ValueError, match=r"nothing to roll forward to: .* promoted by tester"):
        back(world, forward=True)
    back(world)
    moved = back(world, "the screen was at fault", forward=True)
    assert (moved.moved, moved.outcome, moved.from_version, moved.to_version) == (True, "rolled_forward", 1, 2)
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    again = back(world, "the screen was at fault", forward=True)
    assert (again.moved, again.to_version, again.ledger_entry) == (False, 2, 4)
    with pytest.raises(ValueError, match="already rolled forward by tester"):
        back(world, "me too", forward=True)
    assert moves(world) == [("promote", None, 1), ("promote", 1, 2), ("rollback", 2, 1), ("forward", 1, 2)]
    assert back(world, "too dark after all").to_version == 1


def test_a_version_by_number_needs_forward_unless_it_is_an_earlier_champion(world: Any) -> None:
    champions(world, "abc")
    assert back(world, to_version=1).to_version == 1
    again = back(world, "me too", actor="bob", to_version=1)
    assert (again.moved, again.to_version) == (False, 1)
    assert "version 1 is already in place, rolled back by tester" in again.message
    assert aliases(world) == {"champion": 1}
    for version, leaver in ((2, "promoted by tester"), (3, "rolled back by tester")):
        with pytest.raises(ValueError, match=f"Version {version} .* was left: {leaver}.*add --forward"):
            back(world, to_version=version)
    assert back(world, to_version=2, forward=True).outcome == "rolled_forward"
    with pytest.raises(ValueError, match=r"Version 1 .* is an earlier champion"):
        back(world, to_version=1, forward=True)
    assert aliases(world) == {"champion": 2, "previous_champion": 1}


def test_the_first_promotion_is_rolled_back_to_the_base_and_forward_again(world: Any) -> None:
    (first,) = champions(world, "a")
    moved = back(world)
    assert (moved.outcome, moved.from_version, moved.to_version) == ("rolled_back", 1, None)
    assert aliases(world) == {}
    assert entries(world)[-1].weights_digest == first.base_digest
    assert read_version(Workspace(world.project, world.settings), "champion") is None
    assert not back(world, from_version=1).moved
    assert not back(world, "me too", to_base=True).moved
    with pytest.raises(ValueError, match=r"To restore version 1, roll forward") as e:
        back(world, "me too")
    assert "--from-version" not in str(e.value)
    forward = back(world, forward=True)
    assert (forward.from_version, forward.to_version) == (None, 1)
    assert aliases(world) == {"champion": 1}
    assert back(world, "after all").to_version is None, "the champion before it is the base again"
    assert promote(world.decide(world.register("b"), None), Workspace(world.project, world.settings), "tester").moved


def test_to_the_base_skips_the_champions_between(world: Any) -> None:
    champions(world, "ab")
    moved = back(world, to_base=True)
    assert (moved.from_version, moved.to_version, aliases(world)) == (2, None, {})
    assert back(world, "not all", forward=True).to_version == 2
    assert aliases(world) == {"champion": 2}, (
        "the order that named every version as bad did not mean to go back to one of them"
    )


def test_a_rollback_needs_a_reason_an_actor_and_a_destination(world: Any) -> None:
    for order in ({}, {"to_base": True}, {"forward": True}):
        with pytest.raises(ValueError, match="has no champion: the base model is in place"):
            back(world, **order)
    champions(world, "ab")
    with pytest.raises(ValueError, match="The reason is empty"):
        back(world, " ")
    with pytest.raises(ValueError, match="The actor is empty"):
        back(world, actor="")
    with pytest.raises(ValueError, match="--to-base cannot be combined"):
        back(world, to_base=True, forward=True)
    assert len(entries(world)) == 2


def test_a_later_move_is_reported(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    champions(world, "abc")
    append = ledger.append

    def overtaken(*arguments: Any, **facts: Any) -> LedgerEntry:
        monkeypatch.undo()
        entry = append(*arguments, **facts)
        back(world, "all are bad", actor="faster", to_base=True)
        return entry

    monkeypatch.setattr(ledger, "append", overtaken)
    moved = back(world)
    assert (moved.moved, moved.to_version) == (True, 2)
    assert moved.message.endswith("version 2; then ledger entry 5 (rollback by faster) moved it to the base model")


# --- only what was promoted -------------------------------------------------------------------------------------------


def test_a_previous_champion_set_by_hand_is_ignored(world: Any) -> None:
    _, second = champions(world, "ab")
    third = world.register("c")
    promote(world.decide(third, second, verdict="hold"), Workspace(world.project, world.settings), "tester")
    registry.set_alias(world.settings, world.project.name, "previous_champion", 3)
    with pytest.raises(ValueError, match=r"Version 3 .* was never promoted.*Promoted versions: 2, 1"):
        back(world, to_version=3)
    registry.delete_alias(world.settings, world.project.name, "previous_champion")
    assert back(world).to_version == 1
    assert aliases(world) == {"champion": 1}


def test_weights_replaced_with_their_tags_are_refused_with_alternatives(world: Any) -> None:
    champions(world, "abc")
    evil = world.train("evil")
    replace_served(world, 2, "evil")
    tags = {registry.WEIGHTS_TAG: evil.weights_digest, "weights.uri": evil.uri}
    registry.set_version_tags(world.settings, world.project.name, 2, tags)
    promoted = entries(world)[1].weights_digest
    with pytest.raises(ValueError, match=f"but {promoted} was promoted .*ledger entry 2.*: they were replaced") as e:
        back(world)
    assert "Use one of: `plumbline rollback --to-version 1`, `plumbline rollback --to-base`." in str(e.value)
    assert aliases(world)["champion"] == 3
    assert back(world, to_version=1).to_version == 1


def test_without_another_version_the_base_is_the_alternative(world: Any) -> None:
    champions(world, "ab")
    world.train("evil")
    replace_served(world, 1, "evil")
    with pytest.raises(ValueError, match=r"they were changed.* Use one of: `plumbline rollback --to-base`\.$"):
        back(world)
    assert back(world, to_base=True).to_version is None


def test_restoring_asks_for_the_promoted_weights_too(world: Any) -> None:
    champions(world, "ab")
    evil = world.train("evil")
    replace_served(world, 2, "evil")
    tags = {registry.WEIGHTS_TAG: evil.weights_digest, "weights.uri": evil.uri}
    registry.set_version_tags(world.settings, world.project.name, 2, tags)
    with pytest.raises(ValueError, match="they were replaced"):
        restore(Workspace(world.project, world.settings), "watch", "a tag was changed")
    assert len(entries(world)) == 2


def damaged_in_the_store(world: Any, artifacts: Path) -> None:
    (path,) = Path(urlsplit(world.store.uri("jobs", "b")).path).glob("weights/*")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def changed_where_served(world: Any, artifacts: Path) -> None:
    world.train("evil")
    replace_served(world, 2, "evil")


def gone_where_served(world: Any, artifacts: Path) -> None:
    with runs.connect(world.settings.tracking_uri) as client:
        served = client.get_model_version_download_uri(world.project.name, "2")
    shutil.rmtree(artifacts / served.removeprefix("mlflow-artifacts:/"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damaged_in_the_store, "changed or damaged"),
        (changed_where_served, "they were changed.*register the weights again"),
        (gone_where_served, "MLflow has no files for version 2"),
    ],
)
def test_changed_weights_are_refused_with_alternatives(
    world: Any, mlflow_server: Any, damage: Callable[[Any, Path], None], complaint: str
) -> None:
    champions(world, "abc")
    damage(world, mlflow_server.database.parent / "artifacts")
    with pytest.raises(ValueError, match=f"{complaint}.* Use one of: `plumbline rollback --to-version 1`, .*--to-base"):
        back(world)
    assert aliases(world) == {"champion": 3, "previous_champion": 2}
    assert len(entries(world)) == 3
    assert back(world, to_version=1).to_version == 1


def test_tags_of_a_champion_that_is_rolled_forward_to_are_those_of_its_promotion(world: Any) -> None:
    first, second = champions(world, "ab")
    back(world)
    promote(world.decide(second, first, verdict="hold"), Workspace(world.project, world.settings), "tester")
    back(world, "was not", forward=True)
    tags = registry.version_tags(world.settings, world.project.name, 2)
    assert tags is not None
    assert (tags["gate.verdict"], tags["gate.decision_digest"]) == ("promote", entries(world)[1].decision_digest)


# --- deleted versions -------------------------------------------------------------------------------------------------


def test_a_deleted_version_is_skipped_and_reported(world: Any) -> None:
    champions(world, "abc")
    delete_version(world, 2)
    with pytest.raises(ValueError, match=r"Version 2 .* was deleted from MLflow.*rollback --to-version 1"):
        back(world, to_version=2)
    moved = back(world)
    assert moved.message == "rolled back (skipped because deleted: version 2): version 3 -> version 1"
    assert aliases(world) == {"champion": 1}


def test_the_base_is_no_place_to_end_up_in_by_chance(world: Any) -> None:
    champions(world, "ab")
    delete_version(world, 1)
    with pytest.raises(ValueError, match=r"No champion before version 2 .* is left in MLflow: version 1 was deleted"):
        back(world)
    assert back(world, to_base=True).to_version is None


def test_from_a_deleted_champion_that_was_never_switched_to_the_real_one_comes_back(
    world: Any, killed_at: Callable[..., Any]
) -> None:
    _, second = champions(world, "ab")
    decision = world.decide(world.register("c"), second)
    with killed_at("set_alias"):
        promote(decision, Workspace(world.project, world.settings), "tester")
    delete_version(world, 3)
    moved = back(world, "version 3 was deleted")
    assert (moved.from_version, moved.to_version) == (3, 2)
    assert aliases(world) == {"champion": 2, "previous_champion": 1}


def test_a_champion_deleted_after_a_rollback_is_left_without_more_ado(world: Any) -> None:
    champions(world, "abc")
    back(world)
    delete_version(world, 2)
    assert back(world, "version 2 was deleted").to_version == 1


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "alias"), [("set_alias", "previous_champion"), ("set_alias", "champion"), ("set_version_tags", "")]
)
def test_an_interrupted_rollback_is_completed_once(
    world: Any, killed_at: Callable[..., Any], function: str, alias: str
) -> None:
    champions(world, "abc")
    with killed_at(function, alias):
        back(world)
    moved = back(world)
    assert (moved.moved, moved.from_version, moved.to_version, moved.ledger_entry) == (True, 3, 2, 4)
    assert "completed an interrupted rollback" in moved.message
    assert aliases(world) == {"champion": 2, "previous_champion": 1}
    assert len(entries(world)) == 4


@pytest.mark.parametrize(("function", "alias"), [("delete_alias", "champion"), ("set_version_tags", "")])
def test_a_rollback_to_the_base_killed_half_way_is_finished(
    world: Any, killed_at: Callable[..., Any], function: str, alias: str
) -> None:
    champions(world, "a")
    with killed_at(function, alias):
        back(world)
    assert read_state(world.project.name, world.settings).unfinished
    moved = back(world)
    assert (moved.from_version, moved.to_version, moved.ledger_entry) == (1, None, 2)
    assert aliases(world) == {}
    assert not read_state(world.project.name, world.settings).unfinished


def test_another_order_than_the_one_cut_short_is_carried_out_after_it(
    world: Any, killed_at: Callable[..., Any]
) -> None:
    champions(world, "ab")
    with killed_at("set_alias"):
        back(world)
    assert back(world, "all are bad", to_base=True).to_version is None
    assert moves(world)[2:] == [("rollback", 2, 1), ("rollback", 1, None)]


def test_a_ledger_that_lost_its_rollback_to_the_base_stops_every_move(world: Any) -> None:
    champions(world, "a")
    back(world)
    (Path(urlsplit(world.store.uri("ledger", world.project.name)).path) / "000002.json").unlink()
    with pytest.raises(ValueError, match="entries were changed or removed"):
        promote(world.decide(world.register("b"), None), Workspace(world.project, world.settings), "tester")
