"""Every import contract is kept, and breaks when violated: each violation is added to a copy of the source tree."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VIOLATIONS = {
    "layers": ("alignment/catalogues/lookup.py", "import pipelines.settings"),
    "dag-scope": ("dags/assets.py", "from alignment.contracts import values"),
    "airflow": ("pipelines/project/file.py", "def peek() -> None:\n    import airflow.sdk"),
    "alignment-scope": ("alignment/training/loop.py", "def peek() -> None:\n    import mlflow"),
    "vendors": ("pipelines/release/promotion/promote.py", "def peek() -> None:\n    import boto3"),
    "torch-free": ("pipelines/dispatch/jobs.py", "from alignment.training import loop"),
    "wings": ("pipelines/intake/snapshot.py", "from pipelines.release.champion import ledger"),
    "floors": ("pipelines/tracking/runs.py", "from pipelines.release.champion import ledger"),
    "science-floors": ("alignment/files/progress.py", "from alignment.data import pairs"),
}


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", "pyproject.toml", "--no-cache"]
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, timeout=120, check=False, env={"PYTHONPATH": str(tree)}
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for name in ("alignment", "pipelines", "dags"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_contracts_are_kept(tree: Path) -> None:
    result = lint_imports(tree)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(VIOLATIONS)} kept, 0 broken." in result.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_contract_breaks_when_violated(tree: Path, contract: str) -> None:
    file, line = VIOLATIONS[contract]
    path = tree / file
    clean = path.read_text()
    path.write_text(clean + f"\n\n{line}\n")
    try:
        result = lint_imports(tree)
    finally:
        path.write_text(clean)
    assert result.returncode != 0
    assert f"{contract_name(contract)} BROKEN" in result.stdout, result.stdout


def contract_name(identity: str) -> str:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(str(c["name"]) for c in settings if c["id"] == identity)
