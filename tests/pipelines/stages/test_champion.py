"""Approval through the stages that a task and a command call, on a real registry; and what `mlflow gc` cannot take."""

import json
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.commands import by_hand, cli
from pipelines.contracts.release import Approval
from pipelines.release.champion.versions import read_version, trainer_tags
from pipelines.release.promotion.verification import check_weights
from pipelines.release.registration.candidates import register
from pipelines.stages import candidates, champion
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[3]
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
            Workspace(world.project, world.settings),
            snapshot=world.snapshot,
            run_id=world.run_id,
            more_tags=trainer_tags(trained_by),
        )

    def promote(self, decision: Any, approval: Approval | None = None) -> dict[str, Any]:
        given = approval.model_dump(mode="json") if approval else None
        return champion.promote(str(self.path), decision.model_dump(mode="json"), actor="airflow", approval=given)

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
    [entry] = champion.history(str(staged.path))
    assert (entry["actor"], entry["approver"], entry["approved_at"]) == ("airflow", "bob", "2026-11-24T09:00:00Z")
    tags = staged.tags(1)
    assert (tags["approval.answer"], tags["approval.by"]) == ("approve", "bob")
    assert tags["approval.at"] == "2026-11-24T09:00:00+00:00"
    assert "airflow  bob" in champion.history_table(str(staged.path))
    assert champion.reconcile(str(staged.path), actor="watch")["state"] == "agrees"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "reject"}, "bob rejected it; nothing was moved"),
        ({"answer": "timeout", "by": "", "by_id": ""}, "no approver answered within 72 hours"),
        ({"by": "ada", "by_id": "ada", "asked_by": ()}, "ada triggered this run or trained the candidate"),
        ({"asked_by": ("bob",)}, "bob triggered this run or trained the candidate"),
        ({"by": "eve", "by_id": "eve"}, "eve may not approve: the approvers are bob, ada"),
    ],
)
def test_every_other_answer_moves_nothing_and_is_noted(staged: Staged, changes: dict[str, Any], message: str) -> None:
    staged.ask("bob", "ada")
    decision = staged.world.decide(staged.candidate("a", "ada"), None)
    given = answer(decision, **changes)
    promotion = staged.promote(decision, given)
    assert (promotion["moved"], promotion["outcome"]) == (False, "rejected")
    assert message in promotion["message"]
    assert champion.history(str(staged.path)) == []
    assert "champion" not in registry.aliases(staged.world.settings, staged.world.project.name)
    assert (staged.tags(1)["approval.answer"], staged.tags(1)["approval.by"]) == (given.answer, given.by)
    assert staged.promote(decision, answer(decision))["moved"], "somebody else may still agree"


def test_without_an_answer_nothing_moves(staged: Staged) -> None:
    staged.ask("bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    assert "it is not approved yet. It needs the approval of one of: bob" in staged.promote(decision)["message"]
    staged.write()
    assert staged.promote(decision)["moved"], "a project that asks nobody does not wait"
    assert champion.history(str(staged.path))[0].get("approver") is None


def test_the_question_leaves_out_who_trained_and_who_triggered(staged: Staged) -> None:
    staged.ask("ada", "bob", "eve")
    decision = staged.world.decide(staged.candidate("a", "ada"), None).model_dump(mode="json")
    question = champion.approval_question(str(staged.path), decision, asked_by=["eve"])
    assert question is not None
    assert question["approvers"] == [{"id": "bob", "name": "bob"}]
    assert question["asked_by"] == ["eve", "ada"]
    staged.write()
    assert champion.approval_question(str(staged.path), decision) is None


def test_each_of_several_trainers_may_not_approve(staged: Staged) -> None:
    staged.ask("ada", "bob", "eve")
    decision = staged.world.decide(staged.candidate("a", "ada, bob"), None)
    promotion = staged.promote(decision, answer(decision, asked_by=()))
    assert "bob triggered this run or trained the candidate" in promotion["message"]
    question = champion.approval_question(str(staged.path), decision.model_dump(mode="json"))
    assert question is not None
    assert [person["id"] for person in question["approvers"]] == ["eve"]


def test_who_moves_the_alias_is_not_who_agrees(staged: Staged) -> None:
    staged.ask("bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    given = answer(decision, asked_by=()).model_dump(mode="json")
    promotion = champion.promote(str(staged.path), decision.model_dump(mode="json"), actor="Bob", approval=given)
    assert promotion["moved"] is False
    assert (
        "bob triggered this run or trained the candidate, so another approver has to approve it" in promotion["message"]
    )


class Shell:
    """`plumbline promote` of one project, as whoever the operating system says it is."""

    def __init__(self, staged: Staged, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.staged, self.patch, self.capsys = staged, patch, capsys

    def promote(self, user: str, *flags: str) -> tuple[int, str, str]:
        """Exit code, message of the promotion (empty without one), and what stands on stderr."""
        self.patch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=user))
        code = cli.main(["promote", str(self.staged.path), *flags])
        said = self.capsys.readouterr()
        return code, json.loads(said.out)[0]["message"] if said.out else "", said.err

    @property
    def moves(self) -> list[tuple[str, str]]:
        return [(entry["actor"], entry["approver"]) for entry in champion.history(str(self.staged.path))]


@pytest.fixture
def shell(staged: Staged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Ada and Bob may approve; a candidate of nobody's waits with a good evaluation, which is all that is made up."""
    staged.ask("ada", "bob")
    text = staged.path.read_text()
    staged.path.write_text(text[: text.index("[coverage]")] + text[text.index("[gate]") :])
    report = staged.world.evaluate(staged.candidate("a", ""), None).model_dump(mode="json")
    monkeypatch.setattr(by_hand, "evaluation", lambda *_: report)
    return Shell(staged, monkeypatch, capsys)


def test_at_a_shell_one_asks_and_another_agrees(shell: Shell) -> None:
    code, message, told = shell.promote("ada")
    assert code == cli.GATE_SAID_NO
    assert message == (
        "version 1 was not promoted: it is not approved yet. It needs the approval of one of: ada, bob; nothing was"
        " moved"
    )
    assert "A person has to agree: bob. Read file://" in told
    digest = told.rpartition("--approve --decision ")[2].strip()
    assert (len(digest), shell.moves) == (12, [])

    shell.patch.setattr(by_hand, "evaluation", lambda *_: pytest.fail("whoever agrees has nothing judged"))
    shell.patch.setenv("LOGNAME", "bob")
    shell.patch.setenv("USER", "bob")
    code, message, told = shell.promote("ada", "--approve")
    assert (code, message, shell.moves) == (cli.BAD_INPUT, "", [])
    assert (
        "ada triggered this run or trained the candidate, so another approver has to approve it. Nothing was moved."
        in told
    )
    code, _, told = shell.promote("eve", "--approve")
    assert (code, "eve may not approve" in told) == (cli.BAD_INPUT, True)
    assert "approval.answer" not in shell.staged.tags(1)
    code, _, told = shell.promote("bob", "--approve", "--decision", "0" * 12)
    assert (code, "the gate made no such decision about it" in told) == (cli.BAD_INPUT, True)

    code, message, _ = shell.promote("bob", "--approve", "--decision", digest)
    assert (code, message, shell.moves) == (cli.DONE, "promoted: the base model -> version 1", [("ada", "bob")])
    assert shell.promote("bob", "--approve")[0] == cli.DONE, "again changes nothing"
    assert len(shell.moves) == 1


def test_who_asked_first_is_who_asked(shell: Shell) -> None:
    """Asking after somebody else did takes nobody's right to agree away, and gives the first one none."""
    shell.promote("ada")
    assert shell.promote("bob")[0] == cli.GATE_SAID_NO
    assert shell.promote("ada", "--approve")[0] == cli.BAD_INPUT
    assert shell.promote("bob", "--approve")[0] == cli.DONE
    assert shell.moves == [("ada", "bob")]


def test_nothing_is_judged_and_approved_in_one_act(shell: Shell) -> None:
    code, message, told = shell.promote("bob", "--approve")
    assert (code, message, shell.moves) == (cli.BAD_INPUT, "", [])
    assert "There is nothing to agree to for version 1" in told
    assert "the gate made no such decision about it" in told
    shell.staged.world.decide(read_version(Workspace(shell.staged.world.project, shell.staged.world.settings), 1), None)
    _, _, told = shell.promote("bob", "--approve")
    assert "who had it decided is not on record. One person runs `plumbline promote" in told


def test_a_project_that_asks_nobody_promotes_as_before(shell: Shell) -> None:
    shell.staged.path.write_text(shell.staged.path.read_text().partition("[approval]")[0])
    code, message, told = shell.promote("ada", "--approve")
    assert (code, message) == (cli.DONE, "promoted: the base model -> version 1")
    assert "has to agree" not in told
    assert champion.history(str(shell.staged.path))[0]["actor"] == "ada"


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
    with runs.connect(world.settings.tracking_uri) as client:
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
        runs.connect(world.settings.tracking_uri) as client,
        pytest.raises(Exception, match="not found"),
    ):
        client.get_run(world.run_id)
    assert staged.promote(world.decide(second, first))["moved"]
    back = champion.rollback(str(staged.path), actor="tester", reason="too dark")
    assert (back["moved"], back["to_version"]) == (True, 1)
    check_weights(first, Workspace(world.project, world.settings))
    assert store.read_bytes(decision.report_uri) == b"<html>report</html>"
    assert champion.reconcile(str(staged.path), actor="watch")["state"] == "agrees"


def test_back_and_forward_by_command_read_as_history(staged: Staged, capsys: pytest.CaptureFixture[str]) -> None:
    world, path = staged.world, str(staged.path)
    first = staged.candidate("a", "")
    staged.promote(world.decide(first, None))
    staged.promote(world.decide(staged.candidate("b", ""), first))

    def roll(*flags: str) -> tuple[int, str]:
        code = cli.main(["rollback", path, "--reason", "too dark", *flags])
        said = capsys.readouterr()
        return code, json.loads(said.out)["message"] if said.out else said.err

    assert roll("--from-version", "2") == (cli.DONE, "rolled back: version 2 -> version 1")
    code, message = roll("--from-version", "2")
    assert code == cli.DONE
    assert message.endswith("version 2 -> version 1; nothing was moved")
    code, message = roll("--to-version", "2")
    assert code == cli.BAD_INPUT
    assert "add --forward" in message
    assert roll("--forward") == (cli.DONE, "rolled forward: version 1 -> version 2")
    assert roll("--to-base") == (cli.DONE, "rolled back: version 2 -> the base model")
    assert cli.main(["ledger", path, "--table"]) == cli.DONE
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[3], *row[6:8]) for row in rows] == [
        ("promote", "base", "v1"),
        ("promote", "v1", "v2"),
        ("rollback", "v2", "v1"),
        ("forward", "v1", "v2"),
        ("rollback", "v2", "base"),
    ]


def test_a_ledger_in_the_wrong_store_is_not_an_empty_one(
    staged: Staged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", str(staged.path)]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == []
    staged.promote(staged.world.decide(staged.candidate("a", ""), None))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", f"{staged.world.settings.store_uri}-typo")
    assert cli.main(["ledger", str(staged.path)]) == cli.BAD_INPUT
    assert "-typo is empty: entries were changed or removed, or that is the wrong store" in capsys.readouterr().err


def test_a_version_that_is_not_there_is_answered_with_those_that_are(staged: Staged) -> None:
    with pytest.raises(ValueError, match=r"has no candidate \(alias `candidate` is not set\)\. Train one first"):
        candidates.pick_candidate(str(staged.path))
    staged.candidate("a", "")
    staged.candidate("b", "")
    with pytest.raises(ValueError, match=r"has no version 99\. Name one of its versions: 1, 2\."):
        candidates.pick_candidate(str(staged.path), 99)
    assert candidates.pick_candidate(str(staged.path), 1)["version"] == 1
