"""Approval through the stages of tasks and commands, on a real registry; and independence of `mlflow gc`."""

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
from pipelines.platform.checks import release
from pipelines.platform.checks.result import check
from pipelines.release.champion.versions import read_version, trainer_tags
from pipelines.release.gate import decision_log
from pipelines.release.promotion.verification import check_weights
from pipelines.release.registration.candidates import register
from pipelines.stages import candidates, champion
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Staged:
    """A world whose project is a file, as the stages need it."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world, self.path = world, folder / f"{world.project.name}.toml"
        self.write()

    def write(self, sections: str = "") -> None:
        text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
        self.path.write_text(text.replace('name = "shapes"', f'name = "{self.world.project.name}"', 1) + sections)

    def require_approval(self, *approvers: str) -> None:
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


def test_the_ledger_and_the_version_record_who_approved_and_when(staged: Staged) -> None:
    staged.require_approval("bob", "ada")
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
        (
            {"by": "eve", "by_id": "eve"},
            "eve may not approve: the approvers are bob, ada",
        ),
    ],
)
def test_every_other_answer_moves_nothing_and_is_recorded(
    staged: Staged, changes: dict[str, Any], message: str
) -> None:
    staged.require_approval("bob", "ada")
    decision = staged.world.decide(staged.candidate("a", "ada"), None)
    given = answer(decision, **changes)
    promotion = staged.promote(decision, given)
    assert (promotion["moved"], promotion["outcome"]) == (False, "rejected")
    assert message in promotion["message"]
    assert champion.history(str(staged.path)) == []
    assert "champion" not in registry.aliases(staged.world.settings, staged.world.project.name)
    assert (staged.tags(1)["approval.answer"], staged.tags(1)["approval.by"]) == (given.answer, given.by)
    assert staged.promote(decision, answer(decision))["moved"], "another approver may still approve"


def test_without_an_answer_nothing_moves(staged: Staged) -> None:
    staged.require_approval("bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    assert "it is not approved yet. It needs the approval of one of: bob" in staged.promote(decision)["message"]
    staged.write()
    assert staged.promote(decision)["moved"], "a project without approvals does not wait"
    assert champion.history(str(staged.path))[0].get("approver") is None


def test_the_question_excludes_those_who_trained_or_triggered(staged: Staged) -> None:
    staged.require_approval("ada", "bob", "eve")
    decision = staged.world.decide(staged.candidate("a", "ada"), None).model_dump(mode="json")
    question = champion.approval_question(str(staged.path), decision, asked_by=["eve"])
    assert question is not None
    assert question["approvers"] == [{"id": "bob", "name": "bob"}]
    assert question["asked_by"] == ["eve", "ada"]
    staged.write()
    assert champion.approval_question(str(staged.path), decision) is None


def test_each_of_several_trainers_may_not_approve(staged: Staged) -> None:
    staged.require_approval("ada", "bob", "eve")
    decision = staged.world.decide(staged.candidate("a", "ada, bob"), None)
    promotion = staged.promote(decision, answer(decision, asked_by=()))
    assert "bob triggered this run or trained the candidate" in promotion["message"]
    question = champion.approval_question(str(staged.path), decision.model_dump(mode="json"))
    assert question is not None
    assert [person["id"] for person in question["approvers"]] == ["eve"]


def test_the_ledger_distinguishes_actor_and_approver(staged: Staged) -> None:
    staged.require_approval("bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    given = answer(decision, asked_by=()).model_dump(mode="json")
    promotion = champion.promote(str(staged.path), decision.model_dump(mode="json"), actor="Bob", approval=given)
    assert promotion["moved"] is False
    assert (
        "bob triggered this run or trained the candidate, so another approver has to approve it" in promotion["message"]
    )


class Shell:
    """`plumbline promote` of one project as different users of the operating system."""

    def __init__(self, staged: Staged, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.staged, self.patch, self.capsys = staged, patch, capsys

    def promote(self, user: str, *flags: str) -> tuple[int, str, str]:
        """Return the exit code, the message of the promotion (empty without one), and stderr."""
        self.patch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=user))
        code = cli.main(["promote", str(self.staged.path), *flags])
        printed = self.capsys.readouterr()
        return code, json.loads(printed.out)[0]["message"] if printed.out else "", printed.err

    @property
    def moves(self) -> list[tuple[str, str]]:
        return [(entry["actor"], entry["approver"]) for entry in champion.history(str(self.staged.path))]


@pytest.fixture
def shell(staged: Staged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Ada and Bob may approve. A candidate without a trainer has a good evaluation; only that is invented."""
    staged.require_approval("ada", "bob")
    text = staged.path.read_text()
    staged.path.write_text(text[: text.index("[coverage]")] + text[text.index("[gate]") :])
    report = staged.world.evaluate(staged.candidate("a", ""), None).model_dump(mode="json")
    monkeypatch.setattr(by_hand, "evaluation", lambda *_: report)
    return Shell(staged, monkeypatch, capsys)


def test_at_a_shell_one_user_requests_and_another_approves(shell: Shell) -> None:
    code, message, stderr = shell.promote("ada")
    assert code == cli.GATE_SAID_NO
    assert message == (
        "version 1 was not promoted: it is not approved yet. It needs the approval of one of: ada, bob;"
        " nothing was moved"
    )
    assert "One of these people has to approve: bob. Read file://" in stderr
    digest = stderr.rpartition("--approve --decision ")[2].strip()
    assert (len(digest), shell.moves) == (12, [])

    shell.patch.setattr(by_hand, "evaluation", lambda *_: pytest.fail("an approval must not evaluate anything"))
    shell.patch.setenv("LOGNAME", "bob")
    shell.patch.setenv("USER", "bob")
    code, message, stderr = shell.promote("ada", "--approve")
    assert (code, message, shell.moves) == (cli.BAD_INPUT, "", [])
    assert (
        "ada triggered this run or trained the candidate, so another approver has to approve it. Nothing was moved."
        in stderr
    )
    code, _, stderr = shell.promote("eve", "--approve")
    assert (code, "eve may not approve" in stderr) == (cli.BAD_INPUT, True)
    assert "approval.answer" not in shell.staged.tags(1)
    code, _, stderr = shell.promote("bob", "--approve", "--decision", "0" * 12)
    assert (code, "the gate made no such decision about it" in stderr) == (cli.BAD_INPUT, True)

    code, message, _ = shell.promote("bob", "--approve", "--decision", digest)
    assert (code, message, shell.moves) == (cli.DONE, "promoted: the base model -> version 1", [("ada", "bob")])
    assert shell.promote("bob", "--approve")[0] == cli.DONE, "a second approval changes nothing"
    assert len(shell.moves) == 1


def test_the_first_request_counts(shell: Shell) -> None:
    """A second request does not stop its user from approving, and does not let the first one approve."""
    shell.promote("ada")
    assert shell.promote("bob")[0] == cli.GATE_SAID_NO
    assert shell.promote("ada", "--approve")[0] == cli.BAD_INPUT
    assert shell.promote("bob", "--approve")[0] == cli.DONE
    assert shell.moves == [("ada", "bob")]


def test_one_command_cannot_both_judge_and_approve(shell: Shell) -> None:
    code, message, stderr = shell.promote("bob", "--approve")
    assert (code, message, shell.moves) == (cli.BAD_INPUT, "", [])
    assert "There is nothing to approve for version 1" in stderr
    assert "the gate made no such decision about it" in stderr
    shell.staged.world.decide(read_version(Workspace(shell.staged.world.project, shell.staged.world.settings), 1), None)
    _, _, stderr = shell.promote("bob", "--approve")
    assert "there is no record of who requested the decision. One person runs `plumbline promote" in stderr


def test_a_project_without_approvals_promotes_directly(shell: Shell) -> None:
    shell.staged.path.write_text(shell.staged.path.read_text().partition("[approval]")[0])
    code, message, stderr = shell.promote("ada", "--approve")
    assert (code, message) == (cli.DONE, "promoted: the base model -> version 1")
    assert "has to agree" not in stderr
    assert champion.history(str(shell.staged.path))[0]["actor"] == "ada"


def test_an_alarm_is_exit_code_1_and_restored_is_0(staged: Staged, capsys: pytest.CaptureFixture[str]) -> None:
    staged.promote(staged.world.decide(staged.candidate("a", ""), None))
    staged.candidate("b", "")
    registry.set_alias(staged.world.settings, staged.world.project.name, "champion", 2)
    assert cli.main(["reconcile", str(staged.path)]) == cli.FAILED
    assert json.loads(capsys.readouterr().out)["state"] == "alarm"
    assert cli.main(["reconcile", str(staged.path), "--restore"]) == cli.DONE
    restored = json.loads(capsys.readouterr().out)
    assert (restored["champion"], restored["closed_runs"]) == (1, [])


def test_reconcile_closes_runs_that_a_crash_left_open(staged: Staged, capsys: pytest.CaptureFixture[str]) -> None:
    settings, name = staged.world.settings, staged.world.project.name
    run_id = runs.parent_run(settings, project=name, key=f"{name}.by_hand", tags={})
    lost = check("runs", lambda: release._runs(staged.world.project, settings), "fix")
    assert not lost.ok
    assert f"{name}.by_hand: No job of it is running." in lost.found
    assert cli.main(["reconcile", str(staged.path)]) == cli.DONE
    names = [own["run"] for own in json.loads(capsys.readouterr().out)["closed_runs"]]
    assert f"{name}.by_hand" in names
    with runs.connect(settings.tracking_uri) as client:
        assert client.get_run(run_id).info.status == "FINISHED"
    assert check("runs", lambda: release._runs(staged.world.project, settings), "fix").ok


def test_garbage_collection_in_mlflow_deletes_nothing_that_the_champion_needs(
    staged: Staged, mlflow_server: Any
) -> None:
    """The runs of both champions are deleted permanently; promotion, rollback and the report do not need them."""
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


def test_rollback_and_forward_commands_are_in_the_ledger(staged: Staged, capsys: pytest.CaptureFixture[str]) -> None:
    world, path = staged.world, str(staged.path)
    first = staged.candidate("a", "")
    staged.promote(world.decide(first, None))
    staged.promote(world.decide(staged.candidate("b", ""), first))

    def roll(*flags: str) -> tuple[int, str]:
        code = cli.main(["rollback", path, "--reason", "too dark", *flags])
        printed = capsys.readouterr()
        return code, json.loads(printed.out)["message"] if printed.out else printed.err

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


def test_a_ledger_in_another_store_is_not_taken_as_empty(
    staged: Staged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", str(staged.path)]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == []
    staged.promote(staged.world.decide(staged.candidate("a", ""), None))
    monkeypatch.setenv("PLUMBLINE_STORE_URI", f"{staged.world.settings.store_uri}-typo")
    assert cli.main(["ledger", str(staged.path)]) == cli.BAD_INPUT
    assert "-typo is empty: entries were changed or removed, or that is the wrong store" in capsys.readouterr().err


def test_the_error_for_an_unknown_version_lists_the_known_ones(staged: Staged) -> None:
    with pytest.raises(ValueError, match=r"has no candidate \(alias `candidate` is not set\)\. Train one first"):
        candidates.pick_candidate(str(staged.path))
    staged.candidate("a", "")
    staged.candidate("b", "")
    with pytest.raises(ValueError, match=r"has no version 99\. Name one of its versions: 1, 2\."):
        candidates.pick_candidate(str(staged.path), 99)
    assert candidates.pick_candidate(str(staged.path), 1)["version"] == 1


def test_a_decision_is_found_by_its_digest_and_no_other(staged: Staged) -> None:
    decision = staged.world.decide(staged.candidate("a", ""), None)
    assert champion.decision_of(str(staged.path), decision.digest) == decision.model_dump(mode="json")
    with pytest.raises(ValueError, match="made no decision 000000000000"):
        champion.decision_of(str(staged.path), "0" * 64)


def test_whoever_requested_the_decision_may_not_approve_it_in_airflow_either(staged: Staged) -> None:
    staged.require_approval("ada", "bob")
    decision = staged.world.decide(staged.candidate("a", ""), None)
    workspace = Workspace(staged.world.project, staged.world.settings)
    decision_log.note_asked(decision, "ada", workspace)
    question = champion.approval_question(str(staged.path), decision.model_dump(mode="json"))
    assert question is not None
    assert [person["id"] for person in question["approvers"]] == ["bob"]
    refused = staged.promote(decision, answer(decision, by="ada", asked_by=()))
    assert "ada triggered this run or trained the candidate" in refused["message"]
