"""Approval through the stages that a task and a command call, on a real registry; and what `mlflow gc` cannot take."""

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import champion_stages, cli, registry, tracking
from pipelines.contracts import Approval
from pipelines.release.registration import register, trainer_tags
from pipelines.release.verification import check_weights
from pipelines.storage import open_store

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Staged:
    """A world whose project is a file, as the stages want it."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world, self.path = world, folder / f"{world.project.name}.toml"
        self.write()

    def write(self, sections: str = "") -> None:
        text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
        self.path.write_text(text.replace('name = "shapes"', f'name = "{self.world.project.name}"', 1) + sections)

    def ask(self, *approvers: str) -> None:
        self.write(f'[approval]\nmode = "required"\napprovers = {json.dumps(approvers)}\n')

    def candidate(self, name: str, trained_by: str) -> Any:
        world = self.world
        return register(
            world.train(name),
            world.project,
            world.settings,
            snapshot=world.snapshot,
            run_id=world.run_id,
            more_tags=trainer_tags(trained_by),
        )

    def promote(self, decision: Any, approval: Approval | None = None) -> dict[str, Any]:
        given = approval.model_dump(mode="json") if approval else None
        return champion_stages.promote(
            str(self.path), decision.model_dump(mode="json"), actor="airflow", approval=given
        )

    def tags(self, version: int) -> dict[str, str]:
        return registry.version_tags(self.world.settings, self.world.project.name, version) or {}


@pytest.fixture
def staged(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    monkeypatch.setenv("PLUMBLINE_STORE_URI", world.settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(world.settings.state_dir))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.settings.tracking_uri)
    return Staged(world, tmp_path)


def answer(decision: Any, **changes: Any) -> Approval:
    facts = {"answer": "approve", "by": "bob", "by_id": "bob", "at": "2026-11-24T09:00:00Z", "asked_by": ("ada",)}
    return Approval.model_validate({"decision_digest": decision.digest, **facts, **changes})


def test_who_agreed_and_when_is_in_the_ledger_and_on_the_version(staged: Staged) -> None:
    staged.ask("bob", "ada")
    decision = staged.world.decide(staged.candidate("a", "ada"), None)
    promotion = staged.promote(decision, answer(decision))
    assert (promotion["moved"], promotion["outcome"]) == (True, "promoted")
    [entry] = champion_stages.history(str(staged.path))
    assert (entry["actor"], entry["approver"], entry["approved_at"]) == ("airflow", "bob", "2026-11-24T09:00:00Z")
    tags = staged.tags(1)
    assert (tags["approval.answer"], tags["approval.by"]) == ("approve", "bob")
    assert tags["approval.at"] == "2026-11-24T09:00:00+00:00"
    assert "airflow  bob" in champion_stages.history_table(str(staged.path))
    assert champion_stages.reconcile(str(staged.path), actor="watch")["state"] == "agrees"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "reject"}, "bob rejected it; nothing was moved"),
        ({"answer": "timeout", "by": "", "by_id": ""}, "nobody answered within 72 hours"),
        ({"by": "ada", "by_id": "ada", "asked_by": ()}, "ada triggered this run or trained the candidate"),
        ({"asked_by": ("bob",)}, "bob triggered this run or trained the candidate"),
        ({"by": "eve", "by_id": "eve"}, "eve may not approve. It needs one of bob, ada"),
    ],
)
def test_every_other_answer_moves_nothing_and_is_noted(staged: Staged, changes: dict[str, Any], message: str) -> None:
    staged.ask("bob", "ada")
    decision = staged.world.decide(staged.candidate("a", "ada"), None)
    given = answer(decision, **changes)
    promotion = staged.promote(decision, given)
    assert (promotion["moved"], promotion["outcome"]) == (False, "rejected")
    assert message in promotion["message"]
    assert champion_stages.history(str(staged.path)) == []
    assert "champion" not in registry.aliases(staged.world.settings, staged.world.project.name)
    assert (staged.tags(1)["approval.answer"], staged.tags(1)["approval.by"]) == (given.answer, given.by)
    assert staged.promote(decision, answer(decision))["moved"], "somebody else may still agree"


def test_without_an_answer_nothing_moves(staged: Staged) -> None:
    staged.ask("bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    assert "nobody has approved it. It needs one of bob" in staged.promote(decision)["message"]
    staged.write()
    assert staged.promote(decision)["moved"], "a project that asks nobody does not wait"
    assert champion_stages.history(str(staged.path))[0].get("approver") is None


def test_the_question_leaves_out_who_trained_and_who_triggered(staged: Staged) -> None:
    staged.ask("ada", "bob", "eve")
    decision = staged.world.decide(staged.candidate("a", "ada"), None).model_dump(mode="json")
    question = champion_stages.approval_question(str(staged.path), decision, asked_by=["eve"])
    assert question is not None
    assert question["approvers"] == [{"id": "bob", "name": "bob"}]
    assert question["asked_by"] == ["eve", "ada"]
    staged.write()
    assert champion_stages.approval_question(str(staged.path), decision) is None


def test_at_a_shell_one_agrees_as_oneself(
    staged: Staged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    staged.ask("bob")
    decision = staged.world.decide(staged.candidate("a", "ada"), None).model_dump(mode="json")
    monkeypatch.setattr(cli, "_decision", lambda *_: decision)

    def promote_as(user: str, *flags: str) -> tuple[int, str]:
        monkeypatch.setattr(getpass, "getuser", lambda: user)
        code = cli.main(["promote", str(staged.path), *flags])
        return code, json.loads(capsys.readouterr().out)[0]["message"]

    assert promote_as("bob") == (
        cli.GATE_SAID_NO,
        "version 1 was not promoted: nobody has approved it. It needs one of bob; nothing was moved",
    )
    code, message = promote_as("eve", "--approve")
    assert code == cli.GATE_SAID_NO
    assert "eve may not approve" in message
    assert promote_as("bob", "--approve")[0] == cli.DONE
    assert cli.main(["ledger", str(staged.path), "--table"]) == cli.DONE
    assert "bob" in capsys.readouterr().out.splitlines()[1]


def test_an_alarm_is_exit_code_1_and_restored_is_0(staged: Staged, capsys: pytest.CaptureFixture[str]) -> None:
    staged.promote(staged.world.decide(staged.candidate("a", ""), None))
    staged.candidate("b", "")
    registry.set_alias(staged.world.settings, staged.world.project.name, "champion", 2)
    assert cli.main(["reconcile", str(staged.path)]) == cli.FAILED
    assert json.loads(capsys.readouterr().out)["state"] == "alarm"
    assert cli.main(["reconcile", str(staged.path), "--restore"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["champion"] == 1


def test_garbage_collection_in_mlflow_takes_nothing_that_the_champion_rests_on(
    staged: Staged, mlflow_server: Any
) -> None:
    """The runs behind both champions are deleted for good; promotion, rollback and the report need none of them."""
    world = staged.world
    first = staged.candidate("a", "")
    decision = world.decide(first, None)
    store = open_store(world.settings.store_uri, world.settings)
    store.write_bytes(decision.report_uri, b"<html>report</html>")
    assert staged.promote(decision)["moved"]
    second = staged.candidate("b", "")
    with tracking.connect(world.settings.tracking_uri) as client:
        client.delete_run(world.run_id)
    collected = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "gc", "--run-ids", world.run_id),
            *("--backend-store-uri", f"sqlite:///{mlflow_server.database}", "--tracking-uri", mlflow_server.uri),
            *("--artifacts-destination", str(mlflow_server.database.parent / "artifacts")),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert collected.returncode == 0, collected.stderr
    with (
        tracking.connect(world.settings.tracking_uri) as client,
        pytest.raises(Exception, match="not found"),
    ):
        client.get_run(world.run_id)
    assert staged.promote(world.decide(second, first))["moved"]
    back = champion_stages.rollback(str(staged.path), actor="tester", reason="too dark")
    assert (back["moved"], back["to_version"]) == (True, 1)
    check_weights(first, world.project, world.settings)
    assert store.read_bytes(decision.report_uri) == b"<html>report</html>"
    assert champion_stages.reconcile(str(staged.path), actor="watch")["state"] == "agrees"
