"""The doctor finds each kind of fault, reports a way to fix it, and loads no torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.monitor.judges import judge_states
from pipelines.platform import services
from pipelines.platform.doctor import Check, diagnose
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.tracking import runs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


@pytest.fixture(autouse=True)
def checkout(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without the secrets of docker-compose.yml, whatever the developer's has."""
    folder = tmp_path_factory.mktemp("checkout")
    monkeypatch.setattr(services, "ROOT", folder)
    return folder


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_complete_installation_passes_every_check(world: Any) -> None:
    runs.finish_run(world.settings, world.run_id, "FINISHED")
    checks = diagnose(world.project, world.settings, judge_states)
    assert [check.name for check in checks] == [
        "store",
        "disk",
        "tracking",
        "clock",
        "platform",
        "engine",
        "signing",
        "withdrawals",
        "projects",
        "gpu",
        "placement",
        "memory",
        "features",
        "base_model",
        "sources",
        "remote",
        "evaluation",
        "data_sets",
        "licences",
        "gate",
        "judges",
        "champion",
        "runs",
        "dags",
        "pool",
    ]
    ours = [check for check in checks if check.name not in {"base_model", "evaluation", "gpu"}]
    assert [check for check in ours if not check.ok or check.fix] == []
    assert named(checks, "licences").found == "base: Apache-2.0, shapes_pairs: CC0-1.0"
    assert list((world.settings.state_dir / "store").rglob("doctor/*")) == []


def test_an_unreachable_server_and_a_store_that_is_a_file_are_found(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").touch()
    broken = {"tracking_uri": "http://127.0.0.1:9", "store_uri": (tmp_path / "file").as_uri()}
    broken |= {"ray_address": "http://127.0.0.1:9"}
    checks = diagnose(None, settings.model_copy(update=broken))
    assert not named(checks, "ray").ok
    assert not named(checks, "tracking").ok
    assert "http://127.0.0.1:9 does not respond" in named(checks, "tracking").found
    assert "MLFLOW_TRACKING_URI" in named(checks, "tracking").fix
    assert not named(checks, "store").ok
    assert "PLUMBLINE_STORE_URI" in named(checks, "store").fix


def test_the_control_plane_side_loads_no_torch() -> None:
    code = (
        "import sys, pipelines.platform.doctor, pipelines.release.status, pipelines.release.promotion.promote,"
        " pipelines.release.gate.decision_log;"
        "print([m for m in ('torch', 'diffusers', 'mlflow', 'boto3', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_secret_of_the_compose_stack_is_named(checkout: Path, tmp_path: Path) -> None:
    settings = Settings(
        store_uri=tmp_path.as_uri(),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        state_dir=tmp_path,
        projects_dir=tmp_path,
    )
    (checkout / "docker-compose.yml").write_text("services: {a: {command: ['${BROKER_PASSWORD:?run it}']}}")
    assert "compose" not in {check.name for check in diagnose(None, settings)}
    (checkout / ".env").write_text("")
    (checkout / ".env").chmod(0o600)
    found = named(diagnose(None, settings), "compose")
    assert not found.ok
    assert "BROKER_PASSWORD" in found.found
    assert "make compose-secrets" in found.found
    assert "docs/production.md" in found.fix
