"""Settings of a fresh installation, and a real MLflow server that the whole session shares."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
START_SECONDS = 90


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store and a state directory of this test's own; no tracking server."""
    return load_settings(
        {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_PROJECTS_DIR": str(ROOT / "projects")}
    )


@dataclass
class MlflowServer:
    """A running `mlflow server` on loopback."""

    uri: str
    database: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End the server and its workers, without asking."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


def start_mlflow_server(folder: Path) -> MlflowServer:
    """Start a server on a free port and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database, log = folder / "mlflow.db", folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = MlflowServer(f"http://127.0.0.1:{port}", database, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=2):
                return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise RuntimeError(f"mlflow server did not answer within {START_SECONDS} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for the session. Tests keep apart by the names of their projects."""
    server = start_mlflow_server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def tracked(settings: Settings, mlflow_server: MlflowServer) -> Settings:
    """Settings whose runs and models go to the session's server."""
    return settings.model_copy(update={"tracking_uri": mlflow_server.uri})
