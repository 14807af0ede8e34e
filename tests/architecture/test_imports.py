"""Modules of the command line and of schemas load no heavy package. test_import_budget.py checks the DAG files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "great_expectations", "mlflow", "boto3", "pandas", "pyarrow")
MODULES = (
    "alignment.config",
    "alignment.contracts.values",
    "pipelines.commands.cli",
    "pipelines.project.file",
    "pipelines.stages.jobs",
)


def loaded(statement: str, tmp_path: Path) -> set[str]:
    """Return the heavy modules that a fresh process has loaded after `statement`."""
    code = f"import sys, json\n{statement}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    environment["PLUMBLINE_PROJECTS_DIR"] = str(ROOT / "projects")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env=environment, cwd=ROOT
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", MODULES)
def test_module_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert loaded(f"import {module}", tmp_path) == set()


def test_the_probe_sees_a_heavy_import(tmp_path: Path) -> None:
    assert loaded("import pyarrow", tmp_path) == {"pyarrow"}
