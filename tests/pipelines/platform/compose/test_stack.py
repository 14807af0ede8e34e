"""Each missing piece of the compose stack is named, with the next step. Docker is a program with prepared output."""

from pathlib import Path

import pytest

from pipelines.platform.compose.secrets import write_secrets
from pipelines.platform.compose.stack import check_stack, is_prepared

COMPOSE = """
services:
  mlflow: {environment: {P: "${MLFLOW_PASSWORD:?no}"}}
  mlflow-init: {}
  ray-gpu-worker: {profiles: [gpu]}
"""
HEALTHY = "mlflow\tUp 3 minutes (healthy)\nmlflow-init\tExited (0) 2 minutes ago\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "My.Platform"
    folder.mkdir()
    (folder / "docker-compose.yml").write_text(COMPOSE)
    write_secrets(folder / "docker-compose.yml", folder / ".env")
    return folder


def docker(folder: Path, printed: str, status: int = 0) -> str:
    """A client that prints this and keeps its arguments."""
    (folder / "printed").write_text(printed)
    path = folder / "docker"
    path.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\ncat {folder}/printed\nexit {status}\n')
    path.chmod(0o755)
    return str(path)


def test_a_healthy_stack_is_described(root: Path) -> None:
    assert is_prepared(root)
    assert check_stack(root, docker(root, HEALTHY)) == "2 containers are healthy or have ended well"
    assert "label=com.docker.compose.project=myplatform" in (root / "asked").read_text()


def test_without_containers_the_next_step_is_named(root: Path) -> None:
    assert "docker compose up --detach" in check_stack(root, docker(root, ""))


@pytest.mark.parametrize(
    ("printed", "named"),
    [
        ("mlflow\tUp 3 minutes (healthy)\n", "mlflow-init: has no container"),
        (HEALTHY.replace("(healthy)", "(unhealthy)"), "mlflow: Up 3 minutes .unhealthy.; see `docker compose logs"),
        (HEALTHY.replace("Exited (0)", "Exited (1)"), "mlflow-init: Exited .1."),
        (HEALTHY.replace("Up 3 minutes (healthy)", "Restarting (1) 5 seconds ago"), "mlflow: Restarting"),
    ],
)
def test_a_service_that_does_not_work_is_named(root: Path, printed: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_stack(root, docker(root, printed))


def test_missing_and_readable_secrets_are_named(root: Path) -> None:
    client = docker(root, HEALTHY)
    (root / ".env").chmod(0o644)
    with pytest.raises(ValueError, match=r"mode 644.*chmod 600"):
        check_stack(root, client)
    (root / ".env").chmod(0o600)
    (root / ".env").write_text("MLFLOW_PASSWORD=\n")
    with pytest.raises(ValueError, match=r"no value for MLFLOW_PASSWORD.*make compose-secrets"):
        check_stack(root, client)
    (root / ".env").unlink()
    assert not is_prepared(root)


def test_a_docker_that_is_missing_or_refuses_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match="no-docker is not installed"):
        check_stack(root, "no-docker")
    with pytest.raises(ValueError, match="failed"):
        check_stack(root, docker(root, "", status=1))


def test_the_project_name_of_the_env_file_wins(root: Path) -> None:
    with (root / ".env").open("a") as stream:
        stream.write("COMPOSE_PROJECT_NAME=other\n")
    check_stack(root, docker(root, HEALTHY))
    assert "label=com.docker.compose.project=other " in (root / "asked").read_text()
