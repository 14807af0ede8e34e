"""`plumbline doctor`: checks of an installation and a project, each fault with a way to fix it. Torch-free."""

import importlib.util
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from alignment.contracts.jobs import Placement
from alignment.contracts.values import Record
from alignment.files.paths import resolve_below
from alignment.files.shards import indexed_files
from pipelines.dispatch import sweeper
from pipelines.dispatch.engines.catalogue import open_engine
from pipelines.dispatch.engines.ray import RayEngine
from pipelines.host import this_host
from pipelines.platform import dag_states, health, services
from pipelines.platform.compose import stack
from pipelines.project.file import Project, load_projects
from pipelines.project.paths import local_paths
from pipelines.records.heldout_prompts import check_enough_prompts
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.promotion.reconcile import files_gone
from pipelines.release.registration import signing
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import runs
from pipelines.workspace import Workspace

MINIMUM_FREE_BYTES = 2 * 1024**3
NVIDIA_SMI_SECONDS = 10
MOST_NAMED_RUNS = 5
CREATED_UNPAUSED = ("monitor", "reconcile", "rollback", "approve")
"""DAGs that monitor and restore the champion, and that ask people about it."""
_PUBLIC_DATA_SETS = {
    "Pick-a-Pic": r"pick[_-]?a[_-]?pic",
    "HPD": r"(?<![a-z])hpd(?![a-z])|hpdv?[23]",
    "ImageRewardDB": r"image[_-]?reward",
}
"""Public data sets from which published judges learnt, with a pattern of their names and addresses."""
WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor")


class _Check(Record):
    """Result of one check."""

    name: str
    ok: bool
    found: str
    """Observation, or the fault."""
    fix: str = ""
    """Way to fix the fault; empty if there is none."""


def diagnose(project: Project | None, settings: Settings) -> list[_Check]:
    """Make every check, those on a project only if there is one. Faults are returned, not raised."""
    checks = [
        _check("store", lambda: _store(settings), "Set PLUMBLINE_STORE_URI to a location that this user may write to."),
        _check("disk", lambda: _disk(settings), "Free some space, or point PLUMBLINE_STATE_DIR at a larger disk."),
        _check("tracking", lambda: _tracking(settings), "Start MLflow (`make up`) or correct MLFLOW_TRACKING_URI."),
        _check(
            "platform",
            lambda: health.describe_platform(settings),
            "Keep `plumbline up` running, which restarts its parts; else restart them, or `make down` and `make up`.",
        ),
        _check("engine", _engine, "Install the packages of a training host (`pip install 'plumbline[gpu]'`)."),
        _check("signing", lambda: signing.check_keys(settings), "Correct the keys; see docs/operations.md."),
        _check("gpu", _gpu, "Fix the driver until `nvidia-smi` responds, or remove it from PATH to use the CPU."),
        _check("projects", lambda: _projects(settings), "Correct these files; the other projects are not affected."),
    ]
    checks += _ray_checks(project, settings)
    if stack.is_prepared(services.ROOT):
        look, fix = partial(stack.check_stack, services.ROOT), "See docs/production.md, Docker compose."
        checks.append(_check("compose", look, fix))
    if project is None:
        return checks
    return [
        *checks,
        _check("placement", lambda: _placement(project, settings), "Correct `[placement]`; see docs/engines.md."),
        _check("base_model", lambda: _base_model(project), "Add the missing files to the folder of `[base] uri`."),
        _check("evaluation", lambda: _evaluation(project), "Correct the paths under `[evaluation]`."),
        _check(
            "gate",
            lambda: _gate(Workspace(project, settings)),
            "Correct `[evaluation] prompts` or `[gate]`; see docs/gate.md.",
        ),
        _check("data_sets", lambda: _data_sets(project), "State `data_sets` of these sources, or rename them."),
        _check("licences", lambda: _licences(project), "State a licence for the base and for every source."),
        _check(
            "champion",
            lambda: _champion(Workspace(project, settings)),
            "Follow these instructions before the next promotion.",
        ),
        _check(
            "runs",
            lambda: _runs(project, settings),
            "Close them with `plumbline reconcile`; the DAG NAME.reconcile does it every hour.",
        ),
        _check("pool", lambda: _pool(Workspace(project, settings)), "See Pool in docs/operations.md."),
        _check(
            "dags",
            lambda: _dags(Workspace(project, settings)),
            "Unpause these DAGs in Airflow; see Paused DAGs in docs/operations.md.",
        ),
    ]


def _check(name: str, look: Callable[[], str], fix: str) -> _Check:
    try:
        return _Check(name=name, ok=True, found=look())
    except (ValueError, OSError, RuntimeError) as error:
        return _Check(name=name, ok=False, found=str(error), fix=fix)


def _store(settings: Settings) -> str:
    store = open_store(settings.store_uri, settings)
    uri = store.uri("doctor", f"{uuid.uuid4().hex}.txt")
    if not store.create_bytes(uri, b"plumbline") or store.read_bytes(uri) != b"plumbline":
        raise ValueError(f"{uri} was written, but different bytes were read.")
    if store.create_bytes(uri, b"other"):
        raise ValueError(f"{uri} was replaced by a write on condition that it does not exist.")
    store.delete(uri)
    return f"{settings.store_uri} can be written and read, and keeps an object that exists"


def _disk(settings: Settings) -> str:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free
    text = f"{free / 1024**3:.1f} GiB free under {settings.state_dir}"
    if free < MINIMUM_FREE_BYTES:
        raise ValueError(f"{text}; checkpoints and images need at least {MINIMUM_FREE_BYTES / 1024**3:.0f} GiB")
    return text


def _tracking(settings: Settings) -> str:
    found = f"{runs.check_reachable(settings)} responds"
    if settings.store_uri.startswith("s3://") and settings.tracking_uri.startswith(("sqlite:", "file:")):
        found += (
            f"; WARNING: it is a file of host {this_host()}, while other hosts may use the same store. Set"
            " MLFLOW_TRACKING_URI to a server if any do"
        )
    return found


def _engine() -> str:
    missing = [name for name in ("accelerate", "torch", "diffusers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"The local engine cannot start jobs on this host: {', '.join(missing)} not installed.")
    return "the local engine can start `accelerate launch`"


def _ray_checks(project: Project | None, settings: Settings) -> list[_Check]:
    """Check the Ray cluster once for each placement on it, or for one process when only its address is set."""
    placements = [p for p in _placements(project).values() if p.engine == "ray"]
    if not placements and not settings.ray_address:
        return []
    largest = max(placements, key=lambda p: p.min_processes or p.num_processes, default=Placement(engine="ray"))
    fix = "Follow docs/engines.md: start the cluster, set PLUMBLINE_RAY_ADDRESS and RAY_AUTH_TOKEN."
    return [_check("ray", lambda: RayEngine(settings).check(largest), fix)]


def _placements(project: Project | None) -> dict[str, Placement]:
    return dict(project.placement) if project else {}


def _placement(project: Project, settings: Settings) -> str:
    """List the engines that the project uses; ValueError for one that does not exist."""
    engines = sorted({placement.engine for placement in _placements(project).values()})
    for name in engines:
        open_engine(name, settings)
    return f"engines: {', '.join(engines)}"


def _gpu() -> str:
    """Describe the GPUs. Having none is allowed; ValueError when the driver fails or does not respond."""
    if shutil.which("nvidia-smi") is None:
        return "none; jobs run on the CPU"
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"nvidia-smi did not respond within {NVIDIA_SMI_SECONDS} s.") from error
    if done.returncode != 0:
        raise ValueError(f"nvidia-smi failed: {(done.stderr or done.stdout).strip()[:200]}")
    return "; ".join(done.stdout.strip().splitlines())


def _projects(settings: Settings) -> str:
    """Load every project file, as Airflow does to make the DAGs; ValueError names the bad ones."""
    projects, problems = load_projects(settings.projects_dir)
    if problems:
        raise ValueError(" ".join(problems))
    if not projects:
        return f"no project file in {settings.projects_dir}"
    names = ", ".join(project.name for project in projects)
    return f"{len(projects)} project file{'s' * (len(projects) > 1)} can be loaded: {names}"


def _runs(project: Project, settings: Settings) -> str:
    """Name the MLflow runs that a crash left open."""
    lost = sweeper.find_lost_runs(project.name, settings, dag_states.dag_run_state(settings))
    if lost:
        named = "; ".join(f"{own.run.name}: {own.reason}" for own in lost[:MOST_NAMED_RUNS])
        raise ValueError(f"{len(lost)} MLflow runs are RUNNING although nothing runs. {named}")
    return "no MLflow run was left open by a crash"


def _dags(workspace: Workspace) -> str:
    """List paused DAGs; ValueError when one monitors or restores the champion, or when a DAG is missing in Airflow."""
    project = workspace.project
    states = dag_states.read_dag_states(workspace)
    if not states.reachable:
        if dag_states.is_configured(workspace.settings):
            raise ValueError(states.problem)
        return f"{states.problem} Paused DAGs are unknown."
    if states.missing_dags:
        raise ValueError(
            f"Airflow does not know {', '.join(states.missing_dags)}. Put the project file into the folder"
            f" PLUMBLINE_PROJECTS_DIR of Airflow at {states.url}, and check the import errors there."
        )
    paused = states.paused_dags or ()
    found = f"{states.url}: " + (f"paused are {', '.join(paused)}" if paused else "no DAG of this project is paused")
    guards = [dag_id for dag_id in paused if dag_id.removeprefix(f"{project.name}.") in CREATED_UNPAUSED]
    if guards:
        verb = "is" if len(guards) == 1 else "are"
        raise ValueError(
            f"{found}. While {', '.join(guards)} {verb} paused, the champion is not monitored or restored."
        )
    return found


def _pool(workspace: Workspace) -> str:
    """Return the state of Airflow's pool; ValueError if a job of the project would never start."""
    states = dag_states.read_dag_states(workspace)
    if states.pool_problem:
        raise ValueError(states.pool_problem)
    return "large enough for every job" if states.reachable else "unknown, as Airflow is not reachable"


def _base_model(project: Project) -> str:
    if "://" in project.base.uri:
        return f"{project.base.uri} is fetched and checked when a job needs it"
    missing = _missing_files(Path(project.base.uri))
    if missing:
        raise ValueError(f"Base model {project.base.uri} lacks {', '.join(missing)}.")
    return f"{project.base.uri} is complete"


def _missing_files(base_dir: Path) -> list[str]:
    """List the configs and safetensors weights that model_index.json names and a diffusers folder lacks."""
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
    checked_elsewhere = {project.base.uri, *(source.uri for source in project.sources)}
    paths = [
        path for path in dict.fromkeys(local_paths(project)) if "://" not in path and path not in checked_elsewhere
    ]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise ValueError(f"These files or folders of the project are missing: {', '.join(missing)}.")
    return f"prompts, {len(evaluation.judges)} judges and {len(evaluation.guards)} guards exist"


def _gate(workspace: Workspace) -> str:
    """Summarise the gate's evidence, with warnings. Contradictory rules were already refused with the project file."""
    project = workspace.project
    policy = project.gate
    if policy.mode == "off":
        return "mode is off: nothing is judged; a person promotes with `plumbline promote --by-hand --reason TEXT`"
    num_prompts = check_enough_prompts(workspace.project, workspace.store)
    found = [f"{num_prompts} prompts, {policy.voting_judges} of {len(project.evaluation.judges)} judges must vote"]
    if not policy.guards:
        found.append(
            "WARNING: no guard, so a loss of prompt fidelity, diversity or safety is not detected; add"
            " [[evaluation.guards]] with rules under [gate.guards]"
        )
    if not policy.calibration_generators:
        found.append(
            "WARNING: judges are checked on pairs of any generator; list the generators similar to this model in"
            " gate.calibration_generators"
        )
    return "; ".join(found)


def _data_sets(project: Project) -> str:
    """Compare sources with public data sets: a judge that learnt from one must not judge a model that did too."""
    unstated = [
        f"{source.name!r} looks like {known}"
        for source in project.sources
        for known, pattern in _PUBLIC_DATA_SETS.items()
        if not source.data_sets and re.search(pattern, f"{source.name} {source.uri}", re.IGNORECASE)
    ]
    if unstated:
        raise ValueError(
            f"Source {' and '.join(unstated)}, but does not say so: judges that learnt from it could vote on models"
            " that learnt from it too."
        )
    return ", ".join(f"{source.name}: {', '.join(source.data_sets) or 'own pairs'}" for source in project.sources)


def _licences(project: Project) -> str:
    stated = {"base": project.base.licence, **{source.name: source.licence for source in project.sources}}
    unstated = [name for name, licence in stated.items() if not licence.strip()]
    if unstated:
        raise ValueError(f"No licence is stated for {', '.join(unstated)}.")
    return ", ".join(f"{name}: {licence}" for name, licence in stated.items())


def _champion(workspace: Workspace) -> str:
    standing = read_state(workspace.project.name, workspace.settings)
    problems = [standing.problem] if standing.problem else files_gone(workspace, standing)
    if problems:
        raise ValueError(" ".join(problems))
    version = "none yet, the base model is used" if standing.champion is None else f"version {standing.champion}"
    ungated = ledger.ungated(standing.entries, standing.champion)
    note = f"; WARNING: it is ungated, {ungated}" if ungated else ""
    return f"{version}; {len(standing.entries)} ledger entries agree{note}"
