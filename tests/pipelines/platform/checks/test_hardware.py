"""GPUs against processes, engines, and space for features."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment.catalogues.backbones import SDXL
from alignment.config import load_recipe
from alignment.contracts.data import Encoding
from alignment.contracts.jobs import Placement
from pipelines.contracts.pairs import SourceFacts
from pipelines.platform.checks import hardware
from pipelines.project.file import Project, load_project
from pipelines.project.sections import RecipeSection
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


def with_train_engine(project: Project, **fields: Any) -> Project:
    placement = project.placement.model_copy(update={"train": Placement(**fields)})
    return project.model_copy(update={"placement": placement})


def test_an_unknown_engine_of_a_placement_is_named(project: Project, settings: Settings) -> None:
    assert hardware._placement(project, settings) == "engines: local"
    with pytest.raises(ValueError, match=r"Unknown engine 'rya'\. Did you mean 'ray'\?"):
        hardware._placement(with_train_engine(project, engine="rya"), settings)


def test_a_ray_cluster_that_does_not_answer_is_named_and_without_one_there_is_no_check(
    project: Project, settings: Settings
) -> None:
    assert hardware._ray_checks(project, settings) == []
    away = settings.model_copy(update={"ray_address": "http://127.0.0.1:9"})
    (check,) = hardware._ray_checks(with_train_engine(project, engine="ray", num_processes=2), away)
    assert not check.ok
    assert "http://127.0.0.1:9 does not answer" in check.found
    assert "PLUMBLINE_RAY_ADDRESS" in check.fix
    (check,) = hardware._ray_checks(with_train_engine(project, engine="ray"), settings)
    assert "needs the address of a cluster" in check.found


def large(project: Project, **train: Any) -> Project:
    """The project as one of SDXL at 1024 px."""
    base = project.base.model_copy(update={"backbone": SDXL()})
    return with_train_engine(project.model_copy(update={"base": base}), **train)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(hardware, "list_gpus", lambda: [f"GPU {number}" for number in range(count)])


def test_a_large_project_without_gpus_is_a_fault_and_a_tiny_one_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 0)
    assert hardware._gpu(project).startswith("none; jobs run on the CPU")
    with pytest.raises(ValueError, match=r"has no GPU, .*sdxl at 1024 px, and placement\.train has 8 processes"):
        hardware._gpu(large(project, num_processes=8))


def test_more_processes_than_gpus_is_a_fault(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert hardware._gpu(large(project, num_processes=2)) == "GPU 0; GPU 1"
    with pytest.raises(ValueError, match=r"has 2 GPUs, but placement\.train has 8 processes"):
        hardware._gpu(large(project, num_processes=8))


def test_processes_on_a_cluster_need_no_gpu_here(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    on_ray = {name: Placement(engine="ray", num_processes=8) for name in dict(project.placement)}
    there = large(project).model_copy(update={"placement": project.placement.model_copy(update=on_ray)})
    assert hardware._gpu(there) == "none here; jobs run on the Ray cluster"


def test_more_processes_than_cores_of_a_tiny_project_is_a_warning(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert "WARNING: placement.train has 2, placement.evaluate has 2 processes" in hardware._gpu(project)


def test_the_size_of_the_features_is_estimated(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hardware._features(Workspace(project, settings))
    assert re.match(r"at most 13\.9 MiB for 612 pairs \(2\.4 MiB of latents, .*3 copies on this disk, .* free", found)
    away = settings.model_copy(update={"store_uri": "s3://bucket/root"})
    monkeypatch.setattr(hardware, "_training_rows", lambda _: {"a": SourceFacts(num_shards=1, num_rows=850_000)})
    assert "2 copies on this disk" in hardware._features(Workspace(project, away))
    remote = project.base.model_copy(update={"uri": f"hub://owner/name@{'0' * 40}", "backbone": SDXL()})
    sdxl = project.model_copy(update={"base": remote})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**15))
    monkeypatch.setattr(Project, "recipes", lambda self: [load_recipe("diffusion_dpo_sdxl_pickapic")])
    assert "for 850000 pairs (830.1 GiB of latents" in hardware._features(Workspace(sdxl, settings))
    half = sdxl.model_copy(update={"features": Encoding(moments="bf16")})
    assert "for 850000 pairs (415.0 GiB of latents" in hardware._features(Workspace(half, settings))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 10**12))
    assert "WARNING: they may not fit" in hardware._features(Workspace(sdxl, settings))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    with pytest.raises(ValueError, match=r"The features do not fit: at most .* 931\.3 GiB free"):
        hardware._features(Workspace(sdxl, settings))


def test_online_recipes_need_no_space_for_features(project: Project, settings: Settings) -> None:
    online = project.model_copy(update={"train": (RecipeSection(recipe="prdp_shapes"),)})
    assert hardware._features(Workspace(online, settings)) == "no recipe trains on encoded features"


def test_the_memory_of_training_is_compared_with_the_gpus_of_this_host(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = project.base.model_copy(update={"uri": f"hub://owner/name@{'0' * 40}", "backbone": SDXL()})
    train = (RecipeSection(recipe="diffusion_dpo_sdxl_pickapic"),)
    own = with_train_engine(project.model_copy(update={"base": remote, "train": train}), micro_batch=1)
    sdxl = Workspace(own, settings)
    assert re.match(r"diffusion_dpo_sdxl_pickapic about \d+ GiB in each process$", hardware._memory(sdxl))
    monkeypatch.setattr(hardware, "gpu_memory_gib", lambda: 79.6)
    assert "WARNING" not in hardware._memory(sdxl)
    monkeypatch.setattr(hardware, "gpu_memory_gib", lambda: 33.0)
    assert "WARNING: more than the 33.0 GiB" in hardware._memory(sdxl)
    monkeypatch.setattr(hardware, "gpu_memory_gib", lambda: 24.0)
    with pytest.raises(ValueError, match=r"needs 29\.6 GiB before activations, .* has 24\.0 GiB"):
        hardware._memory(sdxl)
