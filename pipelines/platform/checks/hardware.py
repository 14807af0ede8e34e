"""Checks of the hardware that a project's jobs need: engines, GPUs, the Ray cluster, and space for features."""

import os
import shutil
from pathlib import Path

from alignment.contracts.jobs import Placement
from pipelines.contracts.pairs import SourceFacts
from pipelines.dispatch.base_facts import base_facts
from pipelines.dispatch.engines.catalogue import open_engine
from pipelines.dispatch.engines.ray import RayEngine
from pipelines.dispatch.gpus import gpu_memory_gib, list_gpus
from pipelines.dispatch.sizing.memory import GIB, case_of, training_memory
from pipelines.dispatch.sizing.plan import denoiser_of
from pipelines.host import this_host
from pipelines.intake import ingestion
from pipelines.platform.checks.result import WARNING, Check, check
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

LARGEST_ON_CPU = 128
"""Side of the largest training images, in pixels, with which a CPU trains in reasonable time."""
_NO_GPU = "none; jobs run on the CPU"
_MEMORY_FIX = (
    "Run `plumbline plan` to see each part. Lower placement.train.micro_batch, set sharding, or choose a recipe with"
    " adapters, another optimiser or an objective without a reference."
)
_GIB = 1024**3


def hardware_checks(project: Project | None, settings: Settings) -> list[Check]:
    """Check GPUs and the Ray cluster, and with a project that they suffice for its jobs."""
    fix = "Fix the driver until `nvidia-smi` responds, or remove it from PATH to use the CPU."
    if project is None:
        return [check("gpu", lambda: "; ".join(list_gpus()) or _NO_GPU, fix), *_ray_checks(None, settings)]
    needed = "Set num_processes in `[placement]` to the number of GPUs, run the jobs on a host with GPUs, or use Ray."
    features_fix = "Free some space, point PLUMBLINE_STATE_DIR or PLUMBLINE_STORE_URI at a larger disk, or use s3://."
    return [
        check("gpu", lambda: _gpu(project), f"{needed} {fix}"),
        *_ray_checks(project, settings),
        check("placement", lambda: _placement(project, settings), "Correct `[placement]`; see docs/engines.md."),
        check("memory", lambda: _memory(Workspace(project, settings)), _MEMORY_FIX),
        check("features", lambda: _features(Workspace(project, settings)), features_fix),
    ]


def _gpu(project: Project) -> str:
    """Compare this host's GPUs with the processes of the engine `local`; ValueError when they are too few.

    Without a GPU jobs run on the CPU, which is reasonable for tiny models only.
    """
    found = list_gpus()
    wanted = {name: own.num_processes for name, own in dict(project.placement).items() if own.engine == "local"}
    if not wanted:
        return f"{'; '.join(found) or 'none here'}; jobs run on the Ray cluster"
    backbone = project.base.backbone
    if not found and backbone.resolution > LARGEST_ON_CPU:
        most = max(wanted, key=lambda name: wanted[name])
        raise ValueError(
            f"Host {this_host()} has no GPU, but jobs run on it (engine 'local') with {backbone.name} at"
            f" {backbone.resolution} px, and placement.{most} has {wanted[most]}"
            f" process{'es' * (wanted[most] > 1)}. On a CPU they would take months."
        )
    limit = len(found) or os.cpu_count() or 1
    unit = "GPUs" if found else "CPU cores"
    above = [f"placement.{name} has {count}" for name, count in wanted.items() if count > limit]
    if above and found:
        raise ValueError(f"Host {this_host()} has {limit} {unit}, but {', '.join(above)} processes, each for one GPU.")
    note = f"; {WARNING} {', '.join(above)} processes, and the host has {limit} {unit}" if above else ""
    return f"{'; '.join(found) or _NO_GPU}{note}"


def _placement(project: Project, settings: Settings) -> str:
    """List the engines that the project uses; ValueError for one that does not exist."""
    engines = sorted({own.engine for own in _placements(project).values()})
    for name in engines:
        open_engine(name, settings)
    return f"engines: {', '.join(engines)}"


def _ray_checks(project: Project | None, settings: Settings) -> list[Check]:
    """Check the Ray cluster for the largest placement on it, or for one process when only its address is set."""
    placements = [p for p in _placements(project).values() if p.engine == "ray"]
    if not placements and not settings.ray_address:
        return []
    largest = max(placements, key=lambda p: p.min_processes or p.num_processes, default=Placement(engine="ray"))
    fix = "Follow docs/engines.md: start the cluster, set PLUMBLINE_RAY_ADDRESS and RAY_AUTH_TOKEN."
    return [check("ray", lambda: RayEngine(settings).check(largest), fix)]


def _placements(project: Project | None) -> dict[str, Placement]:
    return dict(project.placement) if project else {}


def _memory(workspace: Workspace) -> str:
    """Compare the memory of training with the smallest GPU of this host; ValueError when what a process holds between
    two steps alone exceeds it. Without a GPU here, or with training elsewhere, the estimate stands without comparison.
    """
    placement = workspace.project.placement.train
    memory = gpu_memory_gib() if placement.engine == "local" else None
    found, problems = [], []
    for recipe in workspace.project.recipes():
        parts = training_memory(case_of(recipe, placement), denoiser_of(workspace, recipe)[0])
        needed = f"{recipe.name} about {parts.total / GIB:.2g} GiB in each process"
        if memory is None:
            found.append(needed)
            continue
        found.append(f"{needed}; {WARNING} more than the {memory:.1f} GiB" if parts.total > memory * GIB else needed)
        if parts.floor > memory * GIB:
            problems.append(f"{recipe.name} needs {parts.floor / GIB:.1f} GiB before activations")
    if problems:
        raise ValueError(f"{'; '.join(problems)}, and the smallest GPU of host {this_host()} has {memory:.1f} GiB.")
    return "; ".join(found)


def _features(workspace: Workspace) -> str:
    """Compare the free space with the estimated size of the feature caches; ValueError when the latents do not fit.

    The estimate takes every row of the training sources as a pair with its own prompt, so it is an upper bound. An
    encode job of this host writes the cache to its folder, a training reads a copy, and a store in a folder of the same
    disk holds one more.
    """
    project, settings = workspace.project, workspace.settings
    caches = len({(own.backbone, own.images) for own in project.recipes() if not own.objective.online})
    if not caches:
        return "no recipe trains on encoded features"
    rows = sum(own.num_rows for own in _training_rows(workspace).values())
    facts = base_facts(workspace)
    whole, latents = (caches * facts.feature_bytes(rows, texts, project.features.moments) for texts in (rows, 0))
    text = f"{_size(latents)} of latents, and text if no two prompts are equal"
    size = f"at most {_size(whole)} for {rows} pairs ({text})"
    if project.placement.encode.engine != "local":
        return f"{size}, on the nodes of the Ray cluster and in the store"
    copies = _copies(settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free
    found = f"{size}, {copies} copies on this disk, {_size(free)} free under {settings.state_dir}"
    if copies * latents > free:
        raise ValueError(f"The features do not fit: {found}.")
    return f"{found}; {WARNING} they may not fit" if copies * whole > free else found


def _training_rows(workspace: Workspace) -> dict[str, SourceFacts]:
    """Return the facts of the sources whose pairs train; self_generated ones count when their pairs are drawn."""
    names = workspace.project.snapshot.sources or [source.name for source in workspace.project.sources]
    found = ingestion.inspect_sources(workspace)
    pairs = {name: own for name, own in found.items() if isinstance(own, SourceFacts) and not own.is_unpaired}
    return {name: own for name, own in pairs.items() if name in names}


def _copies(settings: Settings) -> int:
    """Return the number of copies of a feature cache on the disk of the state dir."""
    if not settings.store_uri.startswith("file://"):
        return 2
    store, state = Path(settings.store_uri.removeprefix("file://")), settings.state_dir
    return 2 + (_device(store) == _device(state))


def _device(path: Path) -> int:
    """Return the device of a path, or of its nearest folder that exists."""
    return next(own.stat().st_dev for own in (path, *path.parents) if own.exists())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB / 10 else f"{num_bytes / 1024**2:.1f} MiB"
