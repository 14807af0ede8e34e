"""A project of the shapes world in a folder of its own, and the command line run as a person runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLUMBLINE = Path(sys.executable).parent / "plumbline"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes project; its weights, pairs and prompts are the example's own."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "projects").mkdir()
    path = folder / "projects" / "shapes.toml"
    path.write_text((ROOT / "projects" / "shapes.toml").read_text())
    return path


def environment(project: Path, state_dir: Path, **more: str) -> dict[str, str]:
    """Environment of a command whose whole state is in `state_dir`."""
    own = {
        "PLUMBLINE_STATE_DIR": str(state_dir),
        "PLUMBLINE_PROJECTS_DIR": str(project.parent),
        "MLFLOW_TRACKING_URI": f"sqlite:///{state_dir / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    dropped = {"PLUMBLINE_STORE_URI", "AIRFLOW_HOME"}
    return {key: value for key, value in os.environ.items() if key not in dropped} | own | more


def plumbline(*argv: str, env: dict[str, str], timeout: float, expect: int = 0) -> Any:
    """Run a command to its end and give the JSON it printed; a wrong exit code shows what it said."""
    done = subprocess.run(
        [str(PLUMBLINE), *argv], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)
