"""A hand-moved alias, a changed tag and a cut-off move are found, and put right only as far as the policy lets it."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines import registry, tracking
from pipelines.contracts import Reconciliation
from pipelines.project import Project
from pipelines.release import ledger
from pipelines.release.promotion import promote
from pipelines.release.reconcile import reconcile
from pipelines.release.rollback import rollback
from pipelines.release.standing import read_standing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def promoted(world: Any) -> Any:
    """Versions 1 and 2 were promoted in turn; version 3 is a candidate."""
    first = world.register("a")
    promote(world.decide(first, None), world.project, world.settings, "tester")
    promote(world.decide(world.register("b"), first), world.project, world.settings, "tester")
    world.register("c")
    return world


def restoring(world: Any) -> Project:
    section = world.project.reconcile.model_copy(update={"on_mismatch": "restore"})
    project: Project = world.project.model_copy(update={"reconcile": section})
    return project


def found(world: Any, project: Project | None = None, **given: Any) -> Reconciliation:
    return reconcile(project or world.project, world.settings, "watch", **given)


def champion(world: Any) -> int | None:
    return registry.aliases(world.settings, world.project.name).get("champion")


def num_entries(world: Any) -> int:
    return len(ledger.entries(world.project.name, world.settings))


def test_before_and_after_promotions_all_agrees(world: Any) -> None:
    assert (found(world).state, found(world).champion) == ("agrees", None)
    promote(world.decide(world.register("a"), None), world.project, world.settings, "tester")
    answer = found(world)
    assert (answer.state, answer.champion, answer.expected, answer.problems) == ("agrees", 1, 1, ())
    rollback(world.project, world.settings, "tester", "too dark")
    answer = found(world)
    assert (answer.state, answer.champion, answer.expected) == ("agrees", None, None)


def test_a_hand_moved_alias_is_an_alarm_and_stays(promoted: Any) -> None:
    registry.set_alias(promoted.settings, promoted.project.name, "champion", 3)
    answer = found(promoted)
    assert (answer.state, answer.champion, answer.expected) == ("alarm", 3, 2)
    assert "means version 3, the ledger ends with version 2: someone moved it by hand" in answer.problems[0]
    assert (champion(promoted), num_entries(promoted)) == (3, 2)


def test_by_policy_it_is_put_back_and_the_ledger_says_so(promoted: Any) -> None:
    registry.set_alias(promoted.settings, promoted.project.name, "champion", 3)
    answer = found(promoted, restoring(promoted))
    assert (answer.state, answer.champion, answer.expected, answer.ledger_entries) == ("restored", 2, 2, 3)
    assert "someone moved it by hand" in answer.problems[0]
    last = ledger.entries(promoted.project.name, promoted.settings)[-1]
    assert (last.action, last.from_version, last.to_version, last.actor) == ("restore", 2, 2, "watch")
    assert last.reason == "reconcile found the alias at version 3"
    assert registry.aliases(promoted.settings, promoted.project.name)["previous_champion"] == 1
    assert found(promoted).state == "agrees"
    assert rollback(promoted.project, promoted.settings, "tester", "too dark").to_version == 1


def test_asked_for_by_hand_it_is_put_back_whatever_the_policy(promoted: Any) -> None:
    registry.delete_alias(promoted.settings, promoted.project.name, "champion")
    assert found(promoted, restore=True).state == "restored"
    assert champion(promoted) == 2


def test_an_alias_without_any_promotion_is_taken_away(world: Any) -> None:
    world.register("a")
    registry.set_alias(world.settings, world.project.name, "champion", 1)
    assert found(world).state == "alarm"
    assert found(world, restoring(world)).state == "restored"
    assert champion(world) is None
    assert found(world).state == "agrees"
    with pytest.raises(ValueError, match="the base model is in place"):
        rollback(world.project, world.settings, "tester", "reason")


def test_a_changed_tag_is_found_and_put_back(promoted: Any) -> None:
    registry.set_version_tags(promoted.settings, promoted.project.name, 2, {"champion.by": "mallory"})
    answer = found(promoted)
    assert answer.state == "alarm"
    assert "Tag 'champion.by' of version 2" in answer.problems[0]
    assert "'mallory', the ledger says 'tester'" in answer.problems[0]
    assert found(promoted, restoring(promoted)).state == "restored"
    assert found(promoted).state == "agrees"


def test_other_weights_under_the_champion_are_an_alarm_under_every_policy(promoted: Any) -> None:
    registry.set_version_tags(promoted.settings, promoted.project.name, 2, {registry.WEIGHTS_TAG: "a" * 64})
    answer = found(promoted, restoring(promoted))
    assert answer.state == "alarm"
    assert "says that its weights have digest aaaa" in answer.message
    assert num_entries(promoted) == 2


def test_a_deleted_champion_and_a_changed_ledger_are_alarms_under_every_policy(promoted: Any) -> None:
    with tracking.connect(promoted.settings.tracking_uri) as client:
        client.delete_model_version(promoted.project.name, "2")
    assert "was deleted" in found(promoted, restoring(promoted)).message
    path = Path(urlsplit(promoted.store.uri("ledger", promoted.project.name, "000001.json")).path)
    path.chmod(0o644)
    path.write_text(path.read_text().replace("tester", "mallory"))
    answer = found(promoted, restoring(promoted))
    assert (answer.state, answer.champion) == ("alarm", None)
    assert "The ledger was changed" in answer.message


def test_a_move_that_was_cut_short_is_finished(promoted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for the process being killed."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", killed)
        with pytest.raises(Killed):
            rollback(promoted.project, promoted.settings, "tester", "too dark")
    assert read_standing(promoted.project.name, promoted.settings).unfinished
    answer = found(promoted)
    assert (answer.state, answer.champion, answer.expected) == ("finished", 1, 1)
    assert found(promoted).state == "agrees"
