"""The complete loop as users run it: a real scheduler, a real tracking server, training on two processes.

One sequence, run once, since every step costs minutes: the demo is interrupted while it trains; on the second run its
training is killed with -9 and Airflow retries; the final champion has the weights of an undisturbed run, beats the
base by the oracle, and loads from the registry as the README shows; flipped labels are refused.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from embedded_world import MARKS, processes_of
from PIL import Image

from pipelines.dispatch.job_folder import JobFolder
from pipelines.platform import ports, services
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
PLUMBLINE = Path(sys.executable).parent / "plumbline"
pytestmark = [*MARKS, pytest.mark.timeout(1500)]

STEP_TIMEOUT_SECONDS = 420
DEMO_TIMEOUT_SECONDS = 600
STOP_TIMEOUT_SECONDS = 150


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes project in a separate folder; weights, pairs and prompts are the example's."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "projects").mkdir()
    path = folder / "projects" / "shapes.toml"
    path.write_text((ROOT / "projects" / "shapes.toml").read_text())
    return path


def environment(project: Path, state_dir: Path, **more: str) -> dict[str, str]:
    """Environment of a command whose complete state is in `state_dir`."""
    own = {
        "PLUMBLINE_STATE_DIR": str(state_dir),
        "PLUMBLINE_PROJECTS_DIR": str(project.parent),
        "OMP_NUM_THREADS": "1",
    }
    dropped = {"PLUMBLINE_STORE_URI", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "AIRFLOW_HOME"}
    return {key: value for key, value in os.environ.items() if key not in dropped} | own | more


def plumbline(*argv: str, env: dict[str, str], timeout: float, expect: int = 0) -> Any:
    """Run a command to its end and return the JSON it printed; on a wrong exit code show its output."""
    command = [str(PLUMBLINE), *argv]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)


def wait_for(what: str, condition: Callable[[], Any], seconds: float, demo: "subprocess.Popen[str]") -> Any:
    """Poll until the condition returns a truthy value; fail when time is up or the demo ends before."""
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
    """Number of steps that the training job has done."""
    for path in state_dir.glob("jobs/*-train-*"):
        progress = JobFolder(path).read_progress()
        return progress.done if progress else 0
    return 0


@contextmanager
def running_demo(project: Path, env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Start a demo; stop it if the test has not seen it end."""
    command = [str(PLUMBLINE), "demo", str(project)]
    # A suite that was started in the background (`&`) ignores Ctrl-C, and so would the demo.
    heeds: Any = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=env, **output, **heeds) as demo:
        try:
            yield demo
        finally:
            if demo.poll() is None:
                demo.terminate()
                demo.communicate(timeout=STOP_TIMEOUT_SECONDS)


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

    with running_demo(project, env) as demo:
        wait_for("training", lambda: train_step(state_dir) >= 30, STEP_TIMEOUT_SECONDS, demo)
        demo.send_signal(signal.SIGINT)
        output = demo.communicate(timeout=STOP_TIMEOUT_SECONDS)[0]
    assert demo.returncode == 130, output[-5000:]
    assert "continues from here" in output
    assert processes_of(state_dir) == {}

    reached = train_step(state_dir)
    with running_demo(project, env) as demo:
        wait_for("more training", lambda: train_step(state_dir) > max(reached, 60), STEP_TIMEOUT_SECONDS, demo)
        kill_training(state_dir)
        output = demo.communicate(timeout=DEMO_TIMEOUT_SECONDS)[0]
    assert demo.returncode == 0, output[-8000:]
    assert "(promoted now)" in output
    assert processes_of(state_dir) == {}
    [job] = state_dir.glob("jobs/*-train-*")
    assert len(list(job.glob("attempt-*.log"))) >= 3


@pytest.fixture(scope="module")
def registry(state_dir: Path) -> Iterator[str]:
    """The embedded tracking server alone, on the state of the demo."""
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(state_dir)})
    server = services._start_mlflow(settings, ports.free_ports(1)[0])
    try:
        services._wait_until(services._answers(server, "/health"), server)
        yield server.url
    finally:
        services._stop_services([server], settings)


@pytest.fixture(scope="module")
def quiet(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a second installation, which runs undisturbed."""
    return environment(project, tmp_path_factory.mktemp("quiet"))


def test_weights_equal_those_of_an_undisturbed_run(project: Path, state_dir: Path, quiet: dict[str, str]) -> None:
    env = environment(project, state_dir)
    status = plumbline("status", str(project), env=env, timeout=90)
    assert status["ledger"] == {"entries": 1, "agrees_with_aliases": True}
    assert status["last_decision"]["verdict"] == "promote"
    assert status["previous_champion"] is None
    [undisturbed] = plumbline("train", str(project), env=quiet, timeout=600)
    assert status["champion"]["weights_digest"] == undisturbed["weights_digest"]


def test_readme_snippet_draws_an_image(project: Path, state_dir: Path, registry: str, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    address = re.findall(r"http://127\.0\.0\.1:\d+", snippet)
    code = snippet.replace(address[0], registry)
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=240, env=environment(project, state_dir)
    )
    with Image.open(tmp_path / "square.png") as image:
        assert image.size == (64, 64)
        colours = image.convert("RGB").getcolors(maxcolors=64 * 64)
        assert colours is not None
        assert len(colours) > 10


def test_the_champion_compares_with_the_base_as_it_was_judged(project: Path, state_dir: Path) -> None:
    env = environment(project, state_dir)
    found = plumbline("compare", str(project), "champion", "base", env=env, timeout=300)
    assert (found["first"], found["second"], found["outcome"]) == (1, None, "better")
    assert Path(urlsplit(found["report_uri"]).path).is_file()
    refused = plumbline("compare", str(project), "champion", "champion", env=env, timeout=300, expect=3)
    assert refused["outcome"] == "not_better"


def test_oracle_prefers_the_champion(project: Path, state_dir: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/shapes/ask_oracle.py")]
    env = environment(project, state_dir)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wins" in done.stdout


def test_flipped_labels_are_refused(project: Path, quiet: dict[str, str]) -> None:
    [promotion] = plumbline("run", str(project), "flip_labels=true", env=quiet, timeout=900, expect=3)
    assert promotion["moved"] is False
    assert "the gate's verdict is hold" in promotion["message"]
