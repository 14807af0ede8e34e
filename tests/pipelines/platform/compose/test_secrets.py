"""Secrets are strong, private, complete, and never changed."""

import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.platform.compose.secrets import read_env, required_variables, write_secrets

ROOT = Path(__file__).parents[4]
COMPOSE = "services: {a: {environment: {X: '${FIRST_PASSWORD:?no}', Y: '${AIRFLOW_FERNET_KEY:?no}', Z: '${PORT:-1}'}}}"


@pytest.fixture
def compose_file(tmp_path: Path) -> Path:
    path = tmp_path / "docker-compose.yml"
    path.write_text(COMPOSE)
    return path


def test_every_required_variable_gets_a_strong_value_that_only_the_owner_reads(compose_file: Path) -> None:
    env_file = compose_file.parent / ".env"
    assert write_secrets(compose_file, env_file) == ["AIRFLOW_FERNET_KEY", "FIRST_PASSWORD"]
    found = read_env(env_file)
    assert len(bytes.fromhex(found["FIRST_PASSWORD"])) == 32
    assert len(base64.urlsafe_b64decode(found["AIRFLOW_FERNET_KEY"])) == 32
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    other = env_file.with_name("other.env")
    write_secrets(compose_file, other)
    assert read_env(other)["FIRST_PASSWORD"] != found["FIRST_PASSWORD"]


def test_what_is_there_stays_and_what_is_missing_is_added(compose_file: Path) -> None:
    env_file = compose_file.parent / ".env"
    env_file.write_text("# ours\nFIRST_PASSWORD=chosen\nAIRFLOW_FERNET_KEY=")
    env_file.chmod(0o644)
    assert write_secrets(compose_file, env_file) == ["AIRFLOW_FERNET_KEY"]
    assert read_env(env_file)["FIRST_PASSWORD"] == "chosen"
    assert env_file.read_text().startswith("# ours\nFIRST_PASSWORD=chosen\n")
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    whole = env_file.read_bytes()
    assert write_secrets(compose_file, env_file) == []
    assert env_file.read_bytes() == whole


def test_a_link_is_not_followed(compose_file: Path) -> None:
    target = compose_file.parent / "elsewhere"
    (compose_file.parent / ".env").symlink_to(target)
    with pytest.raises(OSError):
        write_secrets(compose_file, compose_file.parent / ".env")
    assert not target.exists()


def test_the_command_needs_nothing_installed_and_shows_no_value(compose_file: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy;"
               " runpy.run_module('pipelines.platform.compose.secrets', run_name='__main__')"]  # fmt: skip
    done = subprocess.run(command, cwd=compose_file.parent, capture_output=True, text=True, timeout=60, check=True)
    value = read_env(compose_file.parent / ".env")["FIRST_PASSWORD"]
    assert "FIRST_PASSWORD" in done.stdout
    assert value not in done.stdout + done.stderr


def test_the_compose_file_of_this_project_requires_secrets() -> None:
    assert {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"} <= set(required_variables(ROOT / "docker-compose.yml"))
