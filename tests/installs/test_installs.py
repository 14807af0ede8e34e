"""The wheel alone, in fresh environments: what each kind of host installs has all that it needs, and no more.

[control] runs the scheduler and the command line without torch, [gpu] runs jobs without airflow and without the
tracking server, [dev] has everything. The versions are those of requirements.lock.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.environment import worker_environment
from pipelines.dispatch.job_folder import JobFolder
from pipelines.settings import load_settings
from pipelines.stages import jobs, pairs, training
from pipelines.store.storage import open_store

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
PROJECT = ROOT / "projects" / "shapes.toml"
INSTALL_SECONDS, RUN_SECONDS = 1500, 300
pytestmark = [pytest.mark.installs, pytest.mark.slow, pytest.mark.timeout(INSTALL_SECONDS + RUN_SECONDS)]

IMPORT_ALL = """
import importlib, pkgutil, sys
names = []
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    names += [found.name for found in pkgutil.walk_packages(package.__path__, name + ".")]
for name in names:
    if not name.rpartition(".")[2].startswith("_"):
        importlib.import_module(name)
print(len(names))
"""
ABSENT = """
import sys
from importlib.metadata import distributions
names = {found.metadata["Name"].lower() for found in distributions()}
print(sorted(names & set(sys.argv[1:])))
"""
MAKE_DAGS = """
import dags, importlib.util, json, pathlib
found = []
for path in sorted(pathlib.Path(dags.__file__).parent.glob("*.py")):
    spec = importlib.util.spec_from_file_location("dag_" + path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found += [name for name in vars(module) if name.startswith("shapes.")]
print(json.dumps(sorted(found)))
"""
Python = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    run([str(UV), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that installs the wheel with an extra into a fresh environment and returns its Python."""

    def make(extra: str) -> Path:
        folder = tmp_path_factory.mktemp(extra) / "venv"
        python = folder / "bin" / "python"
        run([str(UV), "venv", "--quiet", "--python", sys.executable, str(folder)], cwd=ROOT)
        lock = str(ROOT / "requirements.lock")
        command = [str(UV), "pip", "install", "--quiet", "--python", str(python), "--constraint", lock]
        run([*command, f"plumbline[{extra}] @ {wheel.as_uri()}"], cwd=ROOT, seconds=INSTALL_SECONDS)
        return python

    return make


def run(
    command: list[str], *, cwd: Path, env: dict[str, str] | None = None, seconds: int = RUN_SECONDS, expect: int = 0
) -> str:
    """Run a command that must end with this exit code; return its standard output."""
    done = subprocess.run(
        command, cwd=cwd, env=env or dict(os.environ), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def alone(python: Path, folder: Path) -> dict[str, str]:
    """Environment in which only this install's code is found, with all state in the folder."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "AIRFLOW_HOME", "MLFLOW_TRACKING_URI", "PLUMBLINE_STORE_URI")
    return {key: value for key, value in os.environ.items() if key not in dropped} | {
        "PATH": f"{python.parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "PLUMBLINE_STATE_DIR": str(folder / "state"),
        "PLUMBLINE_PROJECTS_DIR": str(PROJECT.parent),
        "OMP_NUM_THREADS": "1",
    }


def test_the_control_plane_needs_no_torch(install: Callable[[str], Path], tmp_path: Path) -> None:
    python = install("control")
    env, plumbline = alone(python, tmp_path), str(python.parent / "plumbline")

    def ask(*command: str, expect: int = 0) -> str:
        return run(list(command), cwd=tmp_path, env=env, expect=expect)

    assert ask(str(python), "-c", ABSENT, "torch", "diffusers", "accelerate", "peft", "ray") == "[]\n"
    assert int(ask(str(python), "-c", IMPORT_ALL, "pipelines", "dags")) > 150
    names = ("calibrate", "ingest", "monitor", "promote", "reconcile", "reward", "rollback", "train")
    assert json.loads(ask(str(python), "-c", MAKE_DAGS).splitlines()[-1]) == [f"shapes.{name}" for name in names]
    assert "Whole loop" in ask(plumbline, "--help")
    checks = {c["name"]: c for c in json.loads(ask(plumbline, "doctor", str(PROJECT), expect=1))["checks"]}
    assert [name for name, check in checks.items() if not check["ok"]] == ["engine"]
    assert "torch, diffusers, peft not installed" in checks["engine"]["found"]
    assert json.loads(ask(plumbline, "status", str(PROJECT)))["champion"] is None


# Great Expectations, which prepares the pairs here, imports deprecated modules.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_training_host_needs_no_airflow_and_no_tracking_server(
    install: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = install("gpu")
    env = alone(python, tmp_path)
    absent = ("apache-airflow", "apache-airflow-core", "mlflow", "flask", "great-expectations", "ray")
    assert run([str(python), "-c", ABSENT, *absent], cwd=tmp_path, env=env) == "[]\n"
    assert int(run([str(python), "-c", IMPORT_ALL, "alignment"], cwd=tmp_path, env=env)) > 100

    path = small_project(tmp_path)
    for name in ("PLUMBLINE_STATE_DIR", "PLUMBLINE_PROJECTS_DIR"):
        monkeypatch.setenv(name, env[name])
    for name in ("PLUMBLINE_STORE_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for shard in pairs.list_shards(path):
        pairs.validate(path, pairs.ingest(path, shard))
    snapshot = pairs.snapshot(path)
    [encoding] = training.plan_encodings(path, snapshot)
    cache = work(python, tmp_path, jobs.job_request(path, "encode", encoding))
    assert cache["num_pairs"] > 10
    [plan] = training.plan_trainings(path, snapshot, [cache])
    result = work(python, tmp_path, jobs.job_request(path, "train", plan))
    assert (result["steps"], result["kind"]) == (2, "full")


def small_project(folder: Path) -> str:
    """The shapes project with 60 pairs, whose recipe takes two steps in one process."""
    (folder / "pairs").mkdir()
    shard = sorted((ROOT / "examples/shapes/pairs").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(shard).slice(0, 60), folder / "pairs" / shard.name)
    text = PROJECT.read_text().replace("../examples/shapes/pairs", str(folder / "pairs"))
    text = text.replace('"../examples', f'"{ROOT}/examples').replace("num_processes = 2", "num_processes = 1")
    recipe = 'recipe = "diffusion_dpo_shapes"\n'
    assert recipe in text
    (folder / "shapes.toml").write_text(text.replace(recipe, f'{recipe}overrides = ["steps=2", "global_batch=16"]\n'))
    return str(folder / "shapes.toml")


def work(python: Path, folder: Path, request: JobRequest) -> dict[str, Any]:
    """Run a job as its host does, and return the result from the store."""
    job, settings = JobFolder(folder / "jobs" / request.job_id), load_settings()
    job.write_request(request)
    env = worker_environment(settings, job.path, alone(python, folder))
    del env["PYTHONPATH"]  # the repository, whose code would hide the wheel's
    run([str(python), "-m", "pipelines.dispatch.worker", str(job.path)], cwd=folder, env=env)
    manifest = open_store(settings.store_uri, settings).read_manifest(request.output_uri)
    assert manifest is not None
    return manifest.value


def test_a_developer_has_everything(install: Callable[[str], Path], tmp_path: Path) -> None:
    python = install("dev")
    env = alone(python, tmp_path)
    assert int(run([str(python), "-c", IMPORT_ALL, "alignment", "pipelines", "dags"], cwd=tmp_path, env=env)) > 300
    for tool in ("ruff", "mypy", "basedpyright", "lint-imports", "sphinx-build"):
        assert run([str(python.parent / tool), "--help"], cwd=tmp_path, env=env)
    collect = [str(python), "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    assert " tests collected in " in run(collect, cwd=ROOT, env=env).splitlines()[-1]
