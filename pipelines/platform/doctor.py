"""Is this installation fit to work? Each part is tried, and what is wrong comes with how to mend it. Torch-free."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignment.contracts.values import Record
from alignment.files.paths import resolve_below
from alignment.files.shards import indexed_files
from pipelines.platform import dag_states
from pipelines.project.file import Project, load_projects
from pipelines.project.paths import local_paths
from pipelines.records.heldout_prompts import check_enough_prompts
from pipelines.release.champion.state import read_state
from pipelines.release.promotion.reconcile import files_gone
from pipelines.release.registration import signing
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import runs
from pipelines.workspace import Workspace

MINIMUM_FREE_BYTES = 2 * 1024**3
NVIDIA_SMI_SECONDS = 10
CREATED_UNPAUSED = ("monitor", "reconcile", "rollback")
"""The DAGs that watch and restore the champion."""
WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor")


class Check(Record):
    """One part of the installation."""

    name: str
    ok: bool
    found: str
    """What was seen."""
    mend: str = ""
    """What to do; empty when all is well."""


def diagnose(project: Project | None, settings: Settings) -> list[Check]:
    """Try every part; the last ones need a project. Never raises for what it finds wrong."""
    checks = [
        _check("store", lambda: _store(settings), "Make PLUMBLINE_STORE_URI a place that this user may write to."),
        _check("disk", lambda: _disk(settings), "Free some space, or point PLUMBLINE_STATE_DIR at a larger disk."),
        _check("tracking", lambda: _tracking(settings), "Start MLflow (`make up`) or correct MLFLOW_TRACKING_URI."),
        _check("engine", _engine, "Install the training host's part here (`pip install 'plumbline[gpu]'`)."),
        _check("signing", lambda: signing.check_keys(settings), "Correct the keys, docs/operations.md says how."),
        _check("gpu", _gpu, "Mend the driver until `nvidia-smi` answers, or hide it from PATH to use the CPU."),
        _check("projects", lambda: _projects(settings), "Correct these files; the other projects are not affected."),
    ]
    if project is None:
        return checks
    return [
        *checks,
        _check("base_model", lambda: _base_model(project), "Complete the folder that `[base] uri` names."),
        _check("evaluation", lambda: _evaluation(project), "Correct the paths under `[evaluation]`."),
        _check(
            "gate",
            lambda: _gate(Workspace(project, settings)),
            "Correct `[evaluation] prompts` or `[gate]`, docs/gate.md.",
        ),
        _check("licences", lambda: _licences(project), "State a licence for the base and for every source."),
        _check(
            "champion",
            lambda: _champion(Workspace(project, settings)),
            "Do what is said there before the next promotion.",
        ),
        _check(
            "dags",
            lambda: _dags(Workspace(project, settings)),
            "Unpause a DAG in Airflow; docs/operations.md, Paused DAGs.",
        ),
    ]


def _check(name: str, look: Callable[[], str], mend: str) -> Check:
    try:
        return Check(name=name, ok=True, found=look())
    except (ValueError, OSError, RuntimeError) as error:
        return Check(name=name, ok=False, found=str(error), mend=mend)


def _store(settings: Settings) -> str:
    store = open_store(settings.store_uri, settings)
    uri = store.uri("doctor", "probe.txt")
    store.write_bytes(uri, b"plumbline")
    if store.read_bytes(uri) != b"plumbline":
        raise ValueError(f"{uri} was written but reads back as something else.")
    store.delete(uri)
    return f"{settings.store_uri} can be written and read"


def _disk(settings: Settings) -> str:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free
    text = f"{free / 1024**3:.1f} GiB free under {settings.state_dir}"
    if free < MINIMUM_FREE_BYTES:
        raise ValueError(f"{text}; checkpoints and images need {MINIMUM_FREE_BYTES / 1024**3:.0f} GiB at least")
    return text


def _tracking(settings: Settings) -> str:
    return f"{runs.check_reachable(settings)} answers"


def _engine() -> str:
    missing = [name for name in ("accelerate", "torch", "diffusers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"The local engine cannot start jobs on this host: {', '.join(missing)} not installed.")
    return "the local engine can start `accelerate launch`"


def _gpu() -> str:
    """No GPU is fine; a driver that does not answer is not."""
    if shutil.which("nvidia-smi") is None:
        return "none; jobs run on the CPU"
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"nvidia-smi did not answer within {NVIDIA_SMI_SECONDS} s.") from error
    if answer.returncode != 0:
        raise ValueError(f"nvidia-smi failed: {(answer.stderr or answer.stdout).strip()[:200]}")
    return "; ".join(answer.stdout.strip().splitlines())


def _projects(settings: Settings) -> str:
    """Airflow makes DAGs of every file in this folder."""
    projects, problems = load_projects(settings.projects_dir)
    if problems:
        raise ValueError(" ".join(problems))
    if not projects:
        return f"no project file in {settings.projects_dir}"
    names = ", ".join(project.name for project in projects)
    return f"{len(projects)} project file{'s' * (len(projects) > 1)} can be loaded: {names}"


def _dags(workspace: Workspace) -> str:
    """Paused DAGs. ValueError where they watch or restore the champion, and where Airflow does not know a DAG."""
    project = workspace.project
    states = dag_states.read_dag_states(workspace)
    if not states.reachable:
        if dag_states.is_configured(workspace.settings):
            raise ValueError(states.problem)
        return f"{states.problem} Paused DAGs are unknown."
    if states.missing_dags:
        raise ValueError(
            f"Airflow does not know {', '.join(states.missing_dags)}. Put the project file into the folder that"
            f" PLUMBLINE_PROJECTS_DIR names for Airflow at {states.url}, and look at the import errors there."
        )
    paused = states.paused_dags or ()
    found = f"{states.url}: " + (f"paused are {', '.join(paused)}" if paused else "no DAG of this project is paused")
    guards = [dag_id for dag_id in paused if dag_id.removeprefix(f"{project.name}.") in CREATED_UNPAUSED]
    if guards:
        verb = "is" if len(guards) == 1 else "are"
        raise ValueError(f"{found}. While {', '.join(guards)} {verb} paused, nobody watches or restores the champion.")
    return found


def _base_model(project: Project) -> str:
    if "://" in project.base.uri:
        return f"{project.base.uri} is fetched, and checked, when a job needs it"
    missing = missing_files(Path(project.base.uri))
    if missing:
        raise ValueError(f"Base model {project.base.uri} lacks {', '.join(missing)}.")
    return f"{project.base.uri} is complete"


def missing_files(base_dir: Path) -> list[str]:
    """What a diffusers folder lacks of what its model_index.json names: configs and safetensors weights."""
    index_path = base_dir / "model_index.json"
    if not index_path.is_file():
        return ["model_index.json"]
    index: dict[str, Any] = json.loads(index_path.read_text(encoding="utf-8"))
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None]
    folders = {part: resolve_below(base_dir, part, index_path, hub_links=True) for part in parts}
    return [lacking for part, folder in folders.items() for lacking in _missing_of_part(folder, part)]


def _missing_of_part(folder: Path, part: str) -> list[str]:
    if not folder.is_dir() or not any(folder.iterdir()):
        return [f"{part}/"]
    if part.startswith(WITHOUT_WEIGHTS):
        return []
    missing = [] if (folder / "config.json").is_file() else [f"{part}/config.json"]
    shards = {shard for index in folder.glob("*.safetensors.index.json") for shard in indexed_files(index)}
    missing += [f"{part}/{s.relative_to(folder).as_posix()}" for s in sorted(shards) if not s.is_file()]
    if not shards and not any(folder.glob("*.safetensors")):
        missing.append(f"{part}/*.safetensors")
    return missing


def _evaluation(project: Project) -> str:
    evaluation = project.evaluation
    elsewhere = {project.base.uri, *(source.uri for source in project.sources)}
    paths = [path for path in dict.fromkeys(local_paths(project)) if "://" not in path and path not in elsewhere]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise ValueError(f"Prompts, scorers or the captioner are missing: {', '.join(missing)}.")
    return f"prompts, {len(evaluation.judges)} judges and {len(evaluation.guards)} guards are there"


def _gate(workspace: Workspace) -> str:
    """What the gate has to go by. Rules that no evaluation could satisfy are refused before, with the project."""
    project = workspace.project
    policy = project.gate
    if policy.mode == "off":
        return "mode is off: nothing is judged, promotion is by hand only"
    asked = check_enough_prompts(workspace)
    found = [f"{asked} prompts, {policy.voting_judges} of {len(project.evaluation.judges)} judges have to vote"]
    if not policy.guards:
        found.append(
            "WARNING: no guard, so a candidate may lose prompt fidelity, diversity or safety unseen; add"
            " [[evaluation.guards]] with rules under [gate.guards]"
        )
    if not policy.calibration_generators:
        found.append(
            "WARNING: judges are checked on pairs of any generator; name those that draw like this model in"
            " gate.calibration_generators"
        )
    return "; ".join(found)


def _licences(project: Project) -> str:
    stated = {"base": project.base.licence, **{source.name: source.licence for source in project.sources}}
    silent = [name for name, licence in stated.items() if not licence.strip()]
    if silent:
        raise ValueError(f"No licence is stated for {', '.join(silent)}.")
    return ", ".join(f"{name}: {licence}" for name, licence in stated.items())


def _champion(workspace: Workspace) -> str:
    standing = read_state(workspace.project.name, workspace.settings)
    problems = [standing.problem] if standing.problem else files_gone(workspace, standing)
    if problems:
        raise ValueError(" ".join(problems))
    version = "none yet, the base model is in place" if standing.champion is None else f"version {standing.champion}"
    return f"{version}; {len(standing.entries)} ledger entries agree"
