"""The whole loop as its users meet it: a real scheduler, a real tracking server, training on two processes.

One story, told once, since every act costs minutes: the demo is interrupted while it trains; run again, its training is
killed with -9 and Airflow retries; the champion it ends with has the weights of a run nobody disturbed; it is loaded from
the registry as the README shows; a third demo finds everything; a candidate trained on flipped labels is refused.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PLUMBLINE, ROOT, environment, plumbline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEP_TIMEOUT_SECONDS = 420
DEMO_TIMEOUT_SECONDS = 600


def processes_of(state_dir: Path) -> dict[int, str]:
    """Command lines of the live processes whose environment names this state folder."""
    mark = f"PLUMBLINE_STATE_DIR={state_dir}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def wait_for(what: str, condition: Callable[[], Any], seconds: float, demo: "subprocess.Popen[str]") -> Any:
    """Poll until the condition gives something; fails when time is up or the demo ends before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        if demo.poll() is not None:
            break
        time.sleep(0.2)
    output = demo.communicate(timeout=120)[0] if demo.poll() is not None else ""
    pytest.fail(f"no {what} within {seconds} s; demo: {demo.poll()}\n{output[-5000:]}")


def train_step(state_dir: Path) -> int:
    """Steps the training job has done."""
    for path in state_dir.glob("jobs/*-train-*/work/out/progress.json"):
        return int(json.loads(path.read_text())["done"])
    return 0


def start_demo(project: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    command = [str(PLUMBLINE), "demo", str(project)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def kill_training(state_dir: Path) -> None:
    ranks = [pid for pid, command in processes_of(state_dir).items() if "alignment.jobs.train" in command]
    assert ranks
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


def test_interrupted_killed_and_resumed(project: Path, state_dir: Path) -> None:
    env = environment(project, state_dir)

    demo = start_demo(project, env)
    try:
        wait_for("training", lambda: train_step(state_dir) >= 30, STEP_TIMEOUT_SECONDS, demo)
        demo.send_signal(signal.SIGINT)
        output = demo.communicate(timeout=150)[0]
    finally:
        demo.kill()
    assert demo.returncode == 130, output[-5000:]
    assert "goes on from here" in output
    assert processes_of(state_dir) == {}

    reached = train_step(state_dir)
    demo = start_demo(project, env)
    try:
        wait_for("more training", lambda: train_step(state_dir) > max(reached, 60), STEP_TIMEOUT_SECONDS, demo)
        kill_training(state_dir)
        output = demo.communicate(timeout=DEMO_TIMEOUT_SECONDS)[0]
    finally:
        demo.kill()
    assert demo.returncode == 0, output[-8000:]
    assert "(promoted now)" in output
    assert processes_of(state_dir) == {}
    [job] = state_dir.glob("jobs/*-train-*")
    assert len(list(job.glob("attempt-*.log"))) >= 3


def registry_uri(state_dir: Path) -> str:
    """The embedded server's database, read without the server."""
    return f"sqlite:///{state_dir / 'mlflow' / 'mlflow.db'}"


def test_weights_are_those_of_an_undisturbed_run(
    project: Path, state_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    status = plumbline(
        "status", str(project), env=environment(project, state_dir, MLFLOW_TRACKING_URI=registry_uri(state_dir)), timeout=90
    )
    assert status["ledger"] == {"entries": 1, "agrees_with_aliases": True}
    assert status["last_decision"]["verdict"] == "promote"
    assert status["previous_champion"] is None
    quiet = environment(project, tmp_path_factory.mktemp("quiet"))
    [undisturbed] = plumbline("train", str(project), env=quiet, timeout=600)
    assert status["champion"]["weights_digest"] == undisturbed["weights_digest"]
