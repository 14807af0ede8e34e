"""Old versions go, those that an alias or the way back rests on stay."""

from typing import Any

import pytest

from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import rollback
from pipelines.release.registration.pruning import _delete_version, prune
from pipelines.tracking import registry
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_only_what_nothing_needs_is_deleted(world: Any) -> None:
    versions = [world.register(name) for name in "abcde"]
    promote(world.decide(versions[1], None), Workspace(world.project, world.settings), "tester")
    promote(world.decide(versions[2], versions[1]), Workspace(world.project, world.settings), "tester")
    answer = prune(Workspace(world.project, world.settings), keep=1)
    assert answer["deleted"] == [1, 4]
    assert answer["kept"] == {
        "2": "alias `previous_champion` names it",
        "3": "alias `champion` names it",
        "5": "alias `candidate` names it",
    }
    assert registry.list_versions(world.settings, world.project.name) == [2, 3, 5]
    assert rollback(Workspace(world.project, world.settings), "tester", "too dark").to_version == 2


def test_after_a_rollback_the_last_good_versions_stay(world: Any) -> None:
    made = [world.register("a")]
    promote(world.decide(made[0], None), Workspace(world.project, world.settings), "tester")
    for name in "bcd":
        made.append(world.register(name))
        promote(world.decide(made[-1], made[-2]), Workspace(world.project, world.settings), "tester")
    world.register("e")
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    rollback(Workspace(world.project, world.settings), "tester", "too dark", from_version=3)
    assert prune(Workspace(world.project, world.settings), keep=0) == {
        "model": world.project.name,
        "deleted": [],
        "kept": {
            "1": "alias `previous_champion` names it",
            "2": "alias `champion` names it",
            "3": "the ledger's last entry names it",
            "4": "it is among the last 3 promoted versions",
            "5": "alias `candidate` names it",
        },
    }
    assert rollback(Workspace(world.project, world.settings), "tester", "too dark", from_version=2).to_version == 1


def test_an_aliased_version_cannot_be_deleted(world: Any) -> None:
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    with pytest.raises(ValueError, match=r"Version 1 .* was not deleted: alias `c\w+` names it"):
        _delete_version(world.project.name, 1, world.settings)
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    world.register("b")
    with pytest.raises(ValueError, match="the ledger's last entry names it"):
        _delete_version(world.project.name, 1, world.settings)
    assert registry.list_versions(world.settings, world.project.name) == [1, 2]


def test_nothing_to_prune_and_a_negative_number(world: Any) -> None:
    assert prune(Workspace(world.project, world.settings), keep=0)["deleted"] == []
    with pytest.raises(ValueError, match="--keep is -1"):
        prune(Workspace(world.project, world.settings), keep=-1)
