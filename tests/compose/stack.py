"""The compose stack of a test: started from docker-compose.yml with stand-ins for what others make, then removed."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.platform.compose.secrets import read_env, required_variables, write_secrets

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKER = os.environ.get("DOCKER", "docker")
UP_SECONDS = 900
COMMAND_SECONDS = 300
SMALL = {"MLFLOW_WORKERS": "1", "AIRFLOW_API_WORKERS": "1", "RAY_WORKER_CPUS": "1", "WORKER_CONCURRENCY": "2"}
"""Settings for a host with two cores."""
Json = dict[str, Any]


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> Any:
    """Poll until the condition returns a truthy value; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(2)
    pytest.fail(f"no {what} within {seconds} s")


def free_port() -> int:
    """A port on 127.0.0.1 that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _compose_command() -> list[str]:
    found = subprocess.run([DOCKER, "compose", "version"], capture_output=True, check=False)
    return [DOCKER, "compose"] if found.returncode == 0 else [shutil.which("docker-compose") or "docker-compose"]


@dataclass
class Stack:
    """One project of docker compose, with its env file."""

    env_file: Path
    name: str = "plumbline-test"

    @classmethod
    def create(cls, folder: Path) -> "Stack":
        """Write the secrets and the ports of a new stack."""
        env_file = folder / "stack.env"
        write_secrets(COMPOSE_FILE, env_file)
        ports = {"AIRFLOW_PORT": free_port(), "MLFLOW_PORT": free_port()}
        with env_file.open("a") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in {**SMALL, **ports}.items())
        return cls(env_file)

    @property
    def env(self) -> dict[str, str]:
        """Variables of the env file."""
        return read_env(self.env_file)

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
        """Run a command of docker compose; return its output."""
        command = [
            *(*_compose_command(), "--project-name", self.name, "--env-file", str(self.env_file)),
            *("--file", str(COMPOSE_FILE), "--file", str(Path(__file__).parent / "override.yml"), *arguments),
        ]
        # The shell's variables would win over those of the file.
        own = {*required_variables(COMPOSE_FILE), *self.env}
        env = {name: value for name, value in os.environ.items() if name not in own}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0 or not check, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def up(self) -> None:
        """Start every service and wait until each is healthy, or has ended well if it is a one-shot job."""
        self.compose("up", "--detach", "--no-build", seconds=UP_SECONDS)
        wait_for("healthy stack", lambda: not self.ill(), UP_SECONDS)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("down", "--volumes", "--timeout", "20", "--remove-orphans", check=False)

    def states(self) -> dict[str, Json]:
        """State of each container, by service."""
        label = f"label=com.docker.compose.project={self.name}"
        kept = "label=com.docker.compose.oneoff=False"
        ids = self._docker("ps", "--all", "--quiet", "--filter", label, "--filter", kept).split()
        found = json.loads(self._docker("inspect", *ids)) if ids else []
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def ill(self) -> dict[str, str]:
        """Services that are not as they should be, with their state."""
        return {name: found for name, each in self.states().items() if (found := _illness(each["State"]))}

    def run(self, service: str, command: Sequence[str], seconds: float = COMMAND_SECONDS) -> str:
        """Run a command in the container of a service; return its output."""
        return self._docker("exec", self.states()[service]["Id"], *command, seconds=seconds)

    def restart(self, service: str) -> None:
        """Restart a service and wait until the whole stack is healthy again."""
        started = self.states()[service]["State"]["StartedAt"]
        self.compose("restart", "--timeout", "20", service)
        assert self.states()[service]["State"]["StartedAt"] != started
        wait_for(f"recovery from a restart of {service}", lambda: not self.ill(), UP_SECONDS)

    def log(self, service: str, lines: int = 60) -> str:
        """The last lines that a service wrote."""
        return self._docker("logs", "--tail", str(lines), self.states()[service]["Id"])

    def _docker(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        done = subprocess.run(
            [DOCKER, *arguments], capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
        )
        assert done.returncode == 0, f"docker {arguments}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout + (done.stderr if arguments[0] == "logs" else "")


def _illness(state: Json) -> str:
    """Return the fault of a container; empty when it is healthy or a job that ended well."""
    if state["Status"] == "exited" and state["ExitCode"] == 0 and "Health" not in state:
        return ""
    health = state.get("Health", {}).get("Status", "")
    return "" if state["Status"] == "running" and health == "healthy" else f"{state['Status']} {health}".strip()
