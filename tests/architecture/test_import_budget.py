"""Import budgets: the libraries and the number of modules that DAG files, the command line and jobs may load.

Each case runs in a fresh process. Only sets and counts of modules are checked, because times depend on the machine;
`python benchmarks/imports.py` measures times. Each limit was set about 15 % above the count of that day.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.commands.cli import main as cli_main
from pipelines.dispatch.job_kinds import JOB_KINDS

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted(path for path in (ROOT / "dags").glob("*.py") if path.name not in ("__init__.py", "assets.py"))
CONTROL_HEAVY = {
    *("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"),
    *("mlflow", "boto3", "great_expectations", "pandas", "pyarrow", "numpy", "scipy", "statsmodels", "sklearn"),
    *("matplotlib", "PIL", "crowdkit", "evalica", "optuna", "kubernetes"),
}
STATISTICS = {"scipy", "statsmodels", "sklearn", "pandas", "matplotlib", "crowdkit"}
MODELS = {"diffusers", "peft", "transformers.modeling_utils", "torch._dynamo"}
BACKBONES = {f"alignment.backbones.{name}" for name in ("stable_diffusion", "sdxl", "sd3", "flux")}
AIRFLOW = (
    *("airflow.sdk", "airflow.sdk.exceptions", "airflow.sdk.execution_time.context", "airflow.triggers.base"),
    *("airflow.providers.standard.operators.hitl", "airflow.providers.standard.operators.trigger_dagrun"),
)
"""Modules of Airflow that DAG files and operators import. A budget counts only the modules loaded in addition."""

DAG_MODULES = 100
CLI_MODULES = 370
LIGHT_JOB_MODULES = 2000
CLIP_JOB_MODULES = 3650
CLIP_JOBS = {
    "train_reward": {"diffusers", "peft", "sklearn", "pandas", "statsmodels", "matplotlib", *BACKBONES},
    "caption": {"diffusers", "peft", "sklearn", "pandas", "statsmodels", "matplotlib", *BACKBONES},
    "import_judge": {"diffusers", "peft", "sklearn", "pandas", "statsmodels", "matplotlib", *BACKBONES},
}
"""Modules that jobs may not load, for jobs that always load a model of transformers, which itself loads scipy."""
LIGHT_JOBS = sorted({kind.name for kind in JOB_KINDS} - CLIP_JOBS.keys() | {"export_weights"})
"""Jobs whose spec names the model to load; their entry point loads none."""
TRAIN_MODULES = 4500


def loaded(statement: str, tmp_path: Path, before: tuple[str, ...] = ()) -> set[str]:
    """Return the names of the modules that `statement` loads in a fresh process after importing `before`."""
    code = (
        f"import importlib, json, runpy, sys\nfor name in {before!r}: importlib.import_module(name)\n"
        f"known = set(sys.modules)\n{statement}\nprint(json.dumps(sorted(set(sys.modules) - known)))"
    )
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    environment |= {"PLUMBLINE_PROJECTS_DIR": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def budget_of(modules: set[str]) -> int:
    """Return the number of modules without those of Airflow."""
    return sum(name.partition(".")[0] != "airflow" for name in modules)


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_file_loads_no_heavy_package_and_few_modules(path: Path, tmp_path: Path) -> None:
    statement = f"runpy.run_path({str(path)!r})"
    found = loaded(statement, tmp_path, before=AIRFLOW)
    assert found & CONTROL_HEAVY == set()
    assert budget_of(found) <= DAG_MODULES


def test_help_loads_no_heavy_package_and_few_modules(tmp_path: Path) -> None:
    assert callable(cli_main)
    statement = "from pipelines.commands.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    found = loaded(statement, tmp_path)
    assert "pipelines.commands.cli" in found
    assert found & CONTROL_HEAVY == set()
    assert len(found) <= CLI_MODULES


@pytest.mark.parametrize("job", LIGHT_JOBS)
def test_a_job_entry_loads_no_model_code_before_it_reads_its_spec(job: str, tmp_path: Path) -> None:
    found = loaded(f"import alignment.jobs.{job}", tmp_path)
    assert "torch" in found
    assert found & (MODELS | STATISTICS | BACKBONES) == set()
    assert len(found) <= LIGHT_JOB_MODULES


@pytest.mark.parametrize("job", CLIP_JOBS)
def test_a_job_entry_with_one_kind_of_model_loads_no_other(job: str, tmp_path: Path) -> None:
    found = loaded(f"import alignment.jobs.{job}", tmp_path)
    assert found & CLIP_JOBS[job] == set()
    assert len(found) <= CLIP_JOB_MODULES


def test_training_a_unet_loads_its_own_family_only(tmp_path: Path) -> None:
    """The UNet of diffusers loads peft and scipy if they are installed, so these two are not checked here."""
    found = loaded("import alignment.jobs.train, alignment.backbones.stable_diffusion", tmp_path)
    assert found & BACKBONES == {"alignment.backbones.stable_diffusion"}
    assert {name for name in found if name.startswith("diffusers.pipelines.") and ".pipeline_" in name} <= {
        "diffusers.pipelines.pipeline_utils",
        "diffusers.pipelines.pipeline_loading_utils",
    }
    assert found & {"transformers.optimization", "sklearn", "pandas", "statsmodels", "matplotlib", "crowdkit"} == set()
    assert len(found) <= TRAIN_MODULES


def test_every_job_entry_has_a_budget() -> None:
    helpers = {"__init__", "checked_features", "outcome", "processes", "shared_output"}
    jobs = {path.stem for path in (ROOT / "alignment" / "jobs").glob("*.py")} - helpers
    assert jobs == {*LIGHT_JOBS, *CLIP_JOBS}


def test_the_probe_sees_imports(tmp_path: Path) -> None:
    assert {"pyarrow", "numpy"} <= loaded("import pyarrow", tmp_path)
    assert "json.tool" in loaded("import json.tool", tmp_path, before=("json",))
