"""Races of the registry on PostgreSQL: SQLite lets one connection write at a time and hides them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.release.awaiting import awaiting_judgement
from pipelines.release.champion import ledger
from pipelines.release.promotion.reconcile import reconcile
from pipelines.tracking import registry
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
ROUNDS = 4
PROMOTER = """
import json, sys, time
from pathlib import Path
from pipelines.contracts.release import GateDecision
from pipelines.project.file import load_project
from pipelines.release.promotion.promote import promote
from pipelines.settings import load_settings
from pipelines.workspace import Workspace

project = load_project(Path(sys.argv[1])).model_copy(update={"name": sys.argv[2]})
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    decision = GateDecision.model_validate(asked["decision"])
    time.sleep(max(0.0, asked["at"] - time.time()))
    try:
        print(promote(decision, Workspace(project, load_settings()), sys.argv[3]).outcome, flush=True)
    except ValueError as error:
        print("refused: " + str(error).replace(chr(10), " "), flush=True)
"""


@pytest.fixture
def mlflow_server(mlflow_on_postgres: Any) -> Any:
    """The server of the fixture `world`."""
    return mlflow_on_postgres


@contextmanager
def promoter(world: Any, actor: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that promotes what it is asked to."""
    settings = world.settings
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
        "PLUMBLINE_STORE_URI": settings.store_uri,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
    }
    command = [sys.executable, "-c", PROMOTER, str(world.project.path), world.project.name, actor]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_an_alias_that_several_create_at_once_is_set(world: Any) -> None:
    version, name = world.register("a").version, world.project.name
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            alias = f"alias_{number}"
            list(pool.map(lambda _: registry.set_alias(world.settings, name, alias, version), range(4)))  # noqa: B023
    assert len(registry.aliases(world.settings, name)) == 11


# Each registration silences this warning for the whole process, and the first that ends restores it for the others.
@pytest.mark.filterwarnings("ignore:.*An input example was not provided")
def test_versions_registered_at_once_are_all_judged(world: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = sorted(candidate.version for candidate in pool.map(world.register, ("a", "b", "c", "d")))
    assert versions == [1, 2, 3, 4]
    workspace = Workspace(world.project, world.settings)
    assert awaiting_judgement(workspace) == [4, 3, 2, 1]
    assert registry.aliases(world.settings, world.project.name)["candidate"] in versions


def test_of_two_promoters_at_once_exactly_one_moves_the_champion(world: Any) -> None:
    workspace, champion, winners = Workspace(world.project, world.settings), None, []
    with ExitStack() as stack:
        promoters = [stack.enter_context(promoter(world, name)) for name in ("ada", "bob")]
        for number in range(1, ROUNDS + 1):
            rivals = [world.register(f"{name}{number}") for name in ("a", "b")]
            decisions = [world.decide(rival, champion) for rival in rivals]
            at = time.time() + 0.5
            for process, decision in zip(promoters, decisions, strict=True):
                assert process.stdin is not None
                process.stdin.write(json.dumps({"decision": decision.model_dump(mode="json"), "at": at}) + "\n")
                process.stdin.flush()
            answers = [process.stdout.readline().strip() for process in promoters if process.stdout]

            assert sorted(answers)[0] == "promoted", answers
            assert sorted(answers)[1].startswith("refused: "), answers
            before, champion = champion, rivals[answers.index("promoted")]
            winners.append(champion.version)
            entries = ledger.entries(world.project.name, workspace.store)
            assert [entry.to_version for entry in entries] == winners, "no update was lost, none was made twice"
            expected = {"champion": champion.version, "candidate": max(rival.version for rival in rivals)}
            if before is not None:
                expected["previous_champion"] = before.version
            assert registry.aliases(world.settings, world.project.name) == expected
            assert reconcile(workspace, "tester").state == "agrees"
