"""A hand-moved alias, a changed tag and a cut-off move are found, and put right only as far as the policy lets it."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.contracts.release import CandidateVersion, Reconciliation
from pipelines.platform.checks import release
from pipelines.project.file import Project
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.promotion import verification
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.reconcile import reconcile
from pipelines.release.promotion.rollback import rollback
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def promoted(world: Any) -> Any:
    """Versions 1 and 2 were promoted in turn; version 3 is a candidate."""
    first = world.register("a")
    promote(world.decide(first, None), Workspace(world.project, world.settings), "tester")
    promote(world.decide(world.register("b"), first), Workspace(world.project, world.settings), "tester")
    world.register("c")
    return world


def restoring(world: Any) -> Project:
    section = world.project.reconcile.model_copy(update={"on_mismatch": "restore"})
    project: Project = world.project.model_copy(update={"reconcile": section})
    return project


def found(world: Any, project: Project | None = None, **given: Any) -> Reconciliation:
    return reconcile(Workspace(project or world.project, world.settings), "watch", **given)


def champion(world: Any) -> int | None:
    return registry.aliases(world.settings, world.project.name).get("champion")


def num_entries(world: Any) -> int:
    return len(ledger.entries(world.project.name, open_store(world.settings.store_uri, world.settings)))


def test_before_and_after_promotions_all_agrees(world: Any) -> None:
    assert (found(world).state, found(world).champion) == ("agrees", None)
    promote(world.decide(world.register("a"), None), Workspace(world.project, world.settings), "tester")
    answer = found(world)
    assert (answer.state, answer.champion, answer.expected, answer.problems) == ("agrees", 1, 1, ())
    rollback(Workspace(world.project, world.settings), "tester", "too dark")
    answer = found(world)
    assert (answer.state, answer.champion, answer.expected) == ("agrees", None, None)


def test_an_alias_moved_by_hand_is_an_alarm_and_is_not_restored(promoted: Any) -> None:
    registry.set_alias(promoted.settings, promoted.project.name, "champion", 3)
    answer = found(promoted)
    assert (answer.state, answer.champion, answer.expected) == ("alarm", 3, 2)
    assert "names version 3, but the ledger ends with version 2: someone moved it by hand" in answer.problems[0]
    assert (champion(promoted), num_entries(promoted)) == (3, 2)


def test_by_policy_the_alias_is_restored_and_recorded(promoted: Any) -> None:
    registry.set_alias(promoted.settings, promoted.project.name, "champion", 3)
    answer = found(promoted, restoring(promoted))
    assert (answer.state, answer.champion, answer.expected, answer.ledger_entries) == ("restored", 2, 2, 3)
    assert "someone moved it by hand" in answer.problems[0]
    last = ledger.entries(promoted.project.name, open_store(promoted.settings.store_uri, promoted.settings))[-1]
    assert (last.action, last.from_version, last.to_version, last.actor) == ("restore", 2, 2, "watch")
    assert last.reason == "reconcile found the alias at version 3"
    assert registry.aliases(promoted.settings, promoted.project.name)["previous_champion"] == 1
    assert found(promoted).state == "agrees"
    assert rollback(Workspace(promoted.project, promoted.settings), "tester", "too dark").to_version == 1


def test_the_restore_option_overrides_the_policy(promoted: Any) -> None:
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
        rollback(Workspace(world.project, world.settings), "tester", "reason")


def ledger_folder(world: Any) -> Path:
    return Path(urlsplit(world.store.uri("ledger", world.project.name)).path)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_lost_ledger_is_an_alarm_under_every_policy_and_moves_no_champion(promoted: Any, kept: int) -> None:
    for path in sorted(ledger_folder(promoted).iterdir())[kept:]:
        path.unlink()
    answer = found(promoted, restoring(promoted))
    assert (answer.state, answer.champion, answer.ledger_entries) == ("alarm", 2, kept)
    assert "Version 2 of model" in answer.message
    assert "entries were changed or removed, or that is the wrong store. Check PLUMBLINE_STORE_URI." in answer.message
    assert "delete alias" not in answer.message
    assert (champion(promoted), num_entries(promoted)) == (2, kept)


def test_a_lost_ledger_is_noticed_where_the_base_model_is_in_place(promoted: Any) -> None:
    rollback(Workspace(promoted.project, promoted.settings), "tester", "all are bad", to_base=True)
    for path in ledger_folder(promoted).iterdir():
        path.unlink()
    assert "is empty: entries were changed or removed" in found(promoted, restoring(promoted)).message
    with pytest.raises(ValueError, match="Check PLUMBLINE_STORE_URI"):
        promote(promoted.decide(promoted.register("d"), None), Workspace(promoted.project, promoted.settings), "tester")


def test_a_ledger_that_lost_its_end_puts_nothing_back_where_the_base_model_is_in_place(promoted: Any) -> None:
    rollback(Workspace(promoted.project, promoted.settings), "tester", "all are bad", to_base=True)
    for sequence in (2, 3):
        (ledger_folder(promoted) / f"{sequence:06d}.json").unlink()
    assert found(promoted, restoring(promoted)).state == "alarm"
    assert champion(promoted) is None


def test_a_rewritten_ledger_does_not_match_the_champion(promoted: Any) -> None:
    path = ledger_folder(promoted) / "000002.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("tester", "mallory"))
    answer = found(promoted, restoring(promoted))
    assert (answer.state, champion(promoted)) == ("alarm", 2)
    assert "entries were changed" in answer.message


def test_a_move_made_while_one_looks_is_no_alarm(promoted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    get_alias = registry.get_alias

    def moved_meanwhile(*arguments: Any) -> int | None:
        monkeypatch.undo()
        rollback(Workspace(promoted.project, promoted.settings), "faster", "too dark")
        return get_alias(*arguments)

    monkeypatch.setattr(registry, "get_alias", moved_meanwhile)
    state = read_state(promoted.project.name, promoted.settings)
    assert (state.champion, len(state.entries), state.problem) == (1, 3, "")


@pytest.mark.parametrize("place", [3, None])
def test_a_wrong_previous_champion_is_reported_and_restored(promoted: Any, place: int | None) -> None:
    name = promoted.project.name
    if place is None:
        registry.delete_alias(promoted.settings, name, "previous_champion")
    else:
        registry.set_alias(promoted.settings, name, "previous_champion", place)
    answer = found(promoted)
    assert answer.state == "alarm"
    assert ("is not set" if place is None else "names version 3") in answer.message
    assert "by the ledger a rollback restores version 1" in answer.message
    assert found(promoted, restoring(promoted)).state == "restored"
    assert registry.aliases(promoted.settings, name)["previous_champion"] == 1
    assert found(promoted).state == "agrees"


def test_after_a_rollback_previous_champion_is_not_the_version_that_was_left(promoted: Any) -> None:
    rollback(Workspace(promoted.project, promoted.settings), "tester", "too dark")
    assert found(promoted).state == "agrees"
    registry.set_alias(promoted.settings, promoted.project.name, "previous_champion", 2)
    assert "names version 2, but by the ledger a rollback restores no version" in found(promoted).message
    assert found(promoted, restoring(promoted)).state == "restored"
    assert "previous_champion" not in registry.aliases(promoted.settings, promoted.project.name)


@pytest.mark.parametrize(
    ("version", "fix"),
    [(2, "It is the champion: use `plumbline rollback` to leave it"), (1, "A rollback would restore it")],
)
def test_a_deleted_logged_model_is_an_alarm_under_every_policy(promoted: Any, version: int, fix: str) -> None:
    with runs.connect(promoted.settings.tracking_uri) as client:
        named = client.get_model_version(promoted.project.name, str(version)).source.removeprefix("models:/")
        client.delete_logged_model(named)
    answer = found(promoted, restoring(promoted))
    assert (answer.state, num_entries(promoted)) == ("alarm", 2)
    assert f"version {version} of model {promoted.project.name!r} is deleted: the next `mlflow gc`" in answer.message
    assert fix in answer.message


def test_files_deleted_by_mlflow_gc_are_reported_by_reconcile_and_doctor(promoted: Any, mlflow_server: Any) -> None:
    with runs.connect(promoted.settings.tracking_uri) as client:
        named = client.get_model_version(promoted.project.name, "1").source.removeprefix("models:/")
        client.delete_logged_model(named)
    collect(mlflow_server)
    answer = found(promoted, restoring(promoted))
    assert (answer.state, num_entries(promoted)) == ("alarm", 2)
    assert "MLflow has no files for version 1" in answer.message
    with pytest.raises(ValueError, match=r"MLflow has no files for version 1 .*A rollback would restore it"):
        release._champion(Workspace(promoted.project, promoted.settings))


def collect(mlflow_server: Any) -> None:
    """Run `mlflow gc`."""
    command = ["-m", "mlflow", "gc", "--backend-store-uri", f"sqlite:///{mlflow_server.database}"]
    command += ["--tracking-uri", mlflow_server.uri]
    command += ["--artifacts-destination", str(mlflow_server.database.parent / "artifacts")]
    subprocess.run([sys.executable, *command], capture_output=True, timeout=200, check=True)


def test_a_changed_tag_is_reported_and_restored(promoted: Any) -> None:
    registry.set_version_tags(promoted.settings, promoted.project.name, 2, {"champion.by": "mallory"})
    answer = found(promoted)
    assert answer.state == "alarm"
    assert "Tag 'champion.by' of version 2" in answer.problems[0]
    assert "'mallory', but the ledger has 'tester'" in answer.problems[0]
    assert found(promoted, restoring(promoted)).state == "restored"
    assert found(promoted).state == "agrees"


def test_other_weights_under_the_champion_are_an_alarm_under_every_policy(promoted: Any) -> None:
    registry.set_version_tags(promoted.settings, promoted.project.name, 2, {registry.WEIGHTS_TAG: "a" * 64})
    answer = found(promoted, restoring(promoted))
    assert answer.state == "alarm"
    assert "names weights with digest aaaa" in answer.message
    assert num_entries(promoted) == 2


def test_a_deleted_champion_and_a_changed_ledger_are_alarms_under_every_policy(promoted: Any) -> None:
    with runs.connect(promoted.settings.tracking_uri) as client:
        client.delete_model_version(promoted.project.name, "2")
    assert "was deleted" in found(promoted, restoring(promoted)).message
    path = Path(urlsplit(promoted.store.uri("ledger", promoted.project.name, "000001.json")).path)
    path.chmod(0o644)
    path.write_text(path.read_text().replace("tester", "mallory"))
    answer = found(promoted, restoring(promoted))
    assert (answer.state, answer.champion) == ("alarm", None)
    assert "The ledger was changed" in answer.message


def test_a_move_that_was_cut_short_is_finished(promoted: Any, killed_at: Callable[..., Any]) -> None:
    with killed_at("set_alias"):
        rollback(Workspace(promoted.project, promoted.settings), "tester", "too dark")
    assert read_state(promoted.project.name, promoted.settings).unfinished
    answer = found(promoted)
    assert (answer.state, answer.champion, answer.expected) == ("finished", 1, 1)
    assert found(promoted).state == "agrees"


def test_a_stale_promotion_that_a_rollback_overtook_is_undone_under_every_policy(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promoter stands before `set_alias` while a rollback finishes, then sets the alias and is killed."""
    workspace = Workspace(world.project, world.settings)
    first = world.register("a")
    promote(world.decide(first, None), workspace, "tester")
    set_alias = registry.set_alias

    def slow(settings: Any, model: str, alias: str, version: int) -> None:
        if (alias, version) == ("champion", 2):
            monkeypatch.setattr(registry, "set_alias", set_alias)
            rollback(workspace, "on call", "black images")
            set_alias(settings, model, alias, version)
            raise KeyboardInterrupt
        set_alias(settings, model, alias, version)

    monkeypatch.setattr(registry, "set_alias", slow)
    with pytest.raises(KeyboardInterrupt):
        promote(world.decide(world.register("b"), first), workspace, "tester")
    assert champion(world) == 2
    answer = found(world)
    assert (answer.state, answer.champion, answer.expected) == ("restored", 1, 1)
    assert found(world).state == "agrees"


def test_only_a_version_that_the_last_rollback_left_is_taken_away_under_every_policy(promoted: Any) -> None:
    rollback(Workspace(promoted.project, promoted.settings), "tester", "too dark")
    registry.set_alias(promoted.settings, promoted.project.name, "champion", 3)
    assert (found(promoted).state, champion(promoted)) == ("alarm", 3)


# --- the files that are served ----------------------------------------------------------------------------------------


def served_folder(world: Any, mlflow_server: Any, version: int) -> Path:
    with runs.connect(world.settings.tracking_uri) as client:
        uri = client.get_model_version_download_uri(world.project.name, str(version))
    root: Path = mlflow_server.database.parent / "artifacts"
    return root / uri.removeprefix("mlflow-artifacts:/")


def spoil_weights(folder: Path) -> None:
    (path,) = folder.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def spoil_code(folder: Path) -> None:
    path = next(path for path in sorted(folder.rglob("*.py")) if path.stat().st_size)
    path.write_text(path.read_text() + "\nimport os\n")


@pytest.mark.parametrize(("spoil", "message"), [(spoil_weights, "serves weights with digest"), (spoil_code, "differ")])
def test_files_that_were_changed_where_they_are_served_are_an_alarm(
    promoted: Any, mlflow_server: Any, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(served_folder(promoted, mlflow_server, 2))
    answer = found(promoted, restoring(promoted))
    assert answer.state == "alarm"
    assert message in answer.message
    assert "`plumbline rollback`" in answer.message
    assert champion(promoted) == 2


def test_between_two_full_checks_sizes_are_compared(
    promoted: Any, mlflow_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, check = list[int](), verification.check_weights

    def counted(version: CandidateVersion, workspace: Workspace) -> None:
        full.append(version.version)
        check(version, workspace)

    monkeypatch.setattr(verification, "check_weights", counted)
    assert [found(promoted).state for _ in range(3)] == ["agrees"] * 3
    assert full == [2]
    section = promoted.project.reconcile.model_copy(update={"full_check_hours": 0.0})
    assert found(promoted, promoted.project.model_copy(update={"reconcile": section})).state == "agrees"
    assert full == [2, 2]
    spoil_code(served_folder(promoted, mlflow_server, 2))
    assert found(promoted).state == "alarm"
    assert full == [2, 2, 2], "a file has another size"


# --- versions that nobody judged --------------------------------------------------------------------------------------


def test_a_version_that_waits_too_long_for_the_gate_is_an_alarm(promoted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(promoted).state == "agrees"
    long_ago = datetime.now(UTC) - timedelta(hours=49)
    monkeypatch.setattr(registry, "registered_at", lambda *_: long_ago)
    answer = found(promoted)
    assert answer.state == "alarm"
    assert "version 3 has waited for the gate for more than 48 hours" in answer.message
    assert f"{promoted.project.name}.promote is paused" in answer.message
    assert champion(promoted) == 2
    for hours in (0.0, 50.0):
        section = promoted.project.reconcile.model_copy(update={"unjudged_hours": hours})
        assert found(promoted, promoted.project.model_copy(update={"reconcile": section})).state == "agrees"


def test_the_time_of_registration_is_that_of_mlflow(promoted: Any) -> None:
    age = datetime.now(UTC) - registry.registered_at(promoted.settings, promoted.project.name, 3)
    assert timedelta(0) <= age < timedelta(minutes=10)
