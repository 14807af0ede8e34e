"""The doctor finds each kind of fault, reports a way to fix it, and loads no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from s3_servers import KEYS, serve_meagre_s3

from alignment.contracts.jobs import Placement
from pipelines.host import this_host
from pipelines.platform import dag_states, doctor, services
from pipelines.platform.dag_states import _DagStates
from pipelines.platform.doctor import _Check, _missing_files, diagnose
from pipelines.project.file import Project, load_project
from pipelines.project.sections import GreedySoupSection
from pipelines.settings import Settings
from pipelines.tracking import runs
from pipelines.workspace import Workspace

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


def named(checks: list[_Check], name: str) -> _Check:
    return next(check for check in checks if check.name == name)


def make_base(folder: Path) -> Path:
    """Write the files of a base model, empty except for those that the doctor reads."""
    parts = {"unet": ["diffusers", "UNet"], "tokenizer": ["transformers", "T"], "safety_checker": [None, None]}
    (folder / "unet").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    (folder / "unet/config.json").write_text("{}")
    (folder / "unet/diffusion_pytorch_model.safetensors").touch()
    (folder / "tokenizer/vocab.json").write_text("{}")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_complete_installation_passes_every_check(world: Any) -> None:
    runs.finish_run(world.settings, world.run_id, "FINISHED")
    checks = diagnose(world.project, world.settings)
    assert [check.name for check in checks] == [
        "store",
        "disk",
        "tracking",
        "platform",
        "engine",
        "signing",
        "gpu",
        "projects",
        "placement",
        "base_model",
        "evaluation",
        "gate",
        "data_sets",
        "licences",
        "champion",
        "runs",
        "pool",
        "dags",
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


def test_a_store_that_ignores_conditional_writes_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "_tracking", lambda _: "not checked here")
    with serve_meagre_s3() as (endpoint, _):
        on_s3 = settings.model_copy(update={"store_uri": "s3://bucket/root", "s3_endpoint_url": endpoint})
        check = named(diagnose(None, on_s3), "store")
    assert not check.ok
    assert "does not honour conditional writes" in check.found


def test_a_registry_on_one_host_beside_a_shared_store_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.runs, "check_reachable", lambda _: "sqlite:///mlflow.db")
    assert "WARNING" not in doctor._tracking(settings)
    shared = settings.model_copy(update={"store_uri": "s3://bucket/root"})
    assert f"WARNING: it is a file of host {this_host()}" in doctor._tracking(shared)
    assert "WARNING" not in doctor._tracking(shared.model_copy(update={"tracking_uri": "https://mlflow"}))


def test_each_broken_project_file_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_tracking", lambda _: "not checked here")
    settings.projects_dir.mkdir()
    assert named(diagnose(None, settings), "projects").found == f"no project file in {settings.projects_dir}"
    sound = f'extends = ["{ROOT}/projects/shapes.toml"]\n'
    (settings.projects_dir / "shapes.toml").write_text(sound)
    assert named(diagnose(None, settings), "projects").found == "1 project file can be loaded: shapes"
    (settings.projects_dir / "second.toml").write_text(sound + 'name = "second"\n[gate]\nminimum_promps = 7\n')
    check = named(diagnose(None, settings), "projects")
    assert not check.ok
    assert f"{settings.projects_dir}/second.toml: Unknown field 'gate.minimum_promps'" in check.found
    assert "the other projects are not affected" in check.fix


STATES = _DagStates(reachable=True, url="http://airflow", paused_dags=(), missing_dags=())


@pytest.mark.parametrize(
    ("states", "ok", "found"),
    [
        (STATES, True, "http://airflow: no DAG of this project is paused"),
        (STATES.model_copy(update={"paused_dags": ("shapes.train",)}), True, "http://airflow: paused are shapes.train"),
        (
            STATES.model_copy(update={"paused_dags": ("shapes.monitor", "shapes.train")}),
            False,
            "paused are shapes.monitor, shapes.train. While shapes.monitor is paused, the champion is not monitored",
        ),
        (STATES.model_copy(update={"missing_dags": ("shapes.train",)}), False, "Airflow does not know shapes.train"),
        (_DagStates(reachable=False, problem="Airflow is not reachable: it is off."), True, "Airflow is not reachable"),
    ],
    ids=["none", "training", "monitor", "missing", "off"],
)
def test_paused_dags_are_named(
    states: _DagStates, ok: bool, found: str, project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dag_states, "read_dag_states", lambda *_: states)
    check = doctor._check("dags", lambda: doctor._dags(Workspace(project, settings)), "fix")
    assert check.ok is ok
    assert found in check.found


def test_a_configured_airflow_must_be_reachable(project: Project, settings: Settings) -> None:
    named_one = settings.model_copy(update={"airflow_ui_url": "http://127.0.0.1:9", "airflow_user": "ada"})
    with pytest.raises(ValueError, match=r"Airflow is not reachable: http://127\.0\.0\.1:9 does not respond"):
        doctor._dags(Workspace(project, named_one))


def test_a_full_disk_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MINIMUM_FREE_BYTES", 10**18)
    with pytest.raises(ValueError, match=r"need at least .* GiB"):
        doctor._disk(settings)


def test_an_engine_without_accelerate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(ValueError, match="cannot start jobs on this host: accelerate not installed"):
        doctor._engine()


@pytest.mark.parametrize(
    ("script", "ok", "found"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", True, "NVIDIA H200, 143771 MiB"),
        ("echo 'no devices' >&2; exit 9", False, "nvidia-smi failed: no devices"),
        (None, True, "none; jobs run on the CPU"),
    ],
)
def test_the_gpu_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, ok: bool, found: str
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._check("gpu", doctor._gpu, "fix") == _Check(name="gpu", ok=ok, found=found, fix="" if ok else "fix")


def test_a_complete_base_lacks_nothing(tmp_path: Path) -> None:
    assert _missing_files(make_base(tmp_path / "base")) == []


@pytest.mark.parametrize(
    ("gone", "reported"),
    [
        ("model_index.json", "model_index.json"),
        ("unet/config.json", "unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/*.safetensors"),
        ("tokenizer/vocab.json", "tokenizer/"),
    ],
)
def test_each_missing_file_of_the_base_is_named(tmp_path: Path, gone: str, reported: str, project: Project) -> None:
    base = make_base(tmp_path / "base")
    (base / gone).unlink()
    assert _missing_files(base) == [reported]
    section = project.base.model_copy(update={"uri": str(base)})
    check = doctor._check("base_model", lambda: doctor._base_model(project.model_copy(update={"base": section})), "fix")
    assert not check.ok
    assert reported in check.found


def test_a_missing_shard_of_the_weights_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "unet/diffusion_pytorch_model.safetensors").rename(base / "unet/w-1.safetensors")
    shards = {"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}
    (base / "unet/w.safetensors.index.json").write_text(json.dumps(shards))
    assert _missing_files(base) == ["unet/w-2.safetensors"]


@pytest.mark.parametrize(
    ("name", "uri", "data_set"),
    [
        ("prefs", "s3://bucket/pickapic_v2/train", "Pick-a-Pic"),
        ("Pick-A-Pic", "/data/x", "Pick-a-Pic"),
        ("prefs", "/data/HPDv2", "HPD"),
        ("image_reward", "/data/x", "ImageRewardDB"),
    ],
)
def test_a_source_that_looks_like_a_public_data_set_has_to_say_so(
    project: Project, name: str, uri: str, data_set: str
) -> None:
    source = project.sources[0].model_copy(update={"name": name, "uri": uri})
    with pytest.raises(ValueError, match=f"{name!r} looks like {data_set}, but does not say so"):
        doctor._data_sets(project.model_copy(update={"sources": (source,)}))
    said = source.model_copy(update={"data_sets": ("pick_a_pic_v2",)})
    assert doctor._data_sets(project.model_copy(update={"sources": (said,)})) == f"{name}: pick_a_pic_v2"
    assert doctor._data_sets(project) == "shapes_pairs: own pairs"


def test_missing_judges_and_licences_are_named(project: Project) -> None:
    gone = project.evaluation.model_copy(update={"prompts": "/nowhere/prompts.tsv"})
    with pytest.raises(ValueError, match=r"/nowhere/prompts\.tsv"):
        doctor._evaluation(project.model_copy(update={"evaluation": gone}))
    silent = project.sources[0].model_copy(update={"licence": " "})
    with pytest.raises(ValueError, match="No licence is stated for shapes_pairs"):
        doctor._licences(project.model_copy(update={"sources": (silent,)}))


def test_a_gate_without_guards_and_too_few_prompts_are_reported(project: Project, settings: Settings) -> None:
    found = doctor._gate(Workspace(project, settings))
    assert found.startswith("200 prompts, 2 of 2 judges must vote")
    assert "no guard" not in found
    assert "list the generators similar to this model in gate.calibration_generators" in found
    bare = {"guards": {}, "calibration_generators": ("sd15",)}
    found = doctor._gate(Workspace(project.model_copy(update={"gate": project.gate.model_copy(update=bare)}), settings))
    assert "WARNING: no guard" in found
    assert "any generator" not in found
    many = project.model_copy(update={"gate": project.gate.model_copy(update={"minimum_prompts": 5000})})
    check = doctor._check("gate", lambda: doctor._gate(Workspace(many, settings)), "fix")
    assert not check.ok
    assert "has 200 prompts" in check.found


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


def test_an_encoder_or_a_soups_prompts_that_are_missing_are_named(project: Project) -> None:
    (reward,) = project.rewards
    soup = GreedySoupSection(method="greedy", judge="taste_a", prompts="/nowhere/soup.tsv", minimum_gain=0.1)
    wrong = {"rewards": (reward.model_copy(update={"encoder": "/nowhere/clip"}),), "soup": soup}
    check = doctor._check("evaluation", lambda: doctor._evaluation(project.model_copy(update=wrong)), "fix")
    assert not check.ok
    assert "/nowhere/clip, /nowhere/soup.tsv" in check.found


def test_every_file_of_a_project_is_checked(project: Project) -> None:
    search = project.search.model_copy(update={"prompts": "/nowhere/search.tsv"})
    with pytest.raises(ValueError, match=r"are missing: /nowhere/search\.tsv\.$"):
        doctor._evaluation(project.model_copy(update={"search": search}))


def test_a_shard_or_a_component_outside_the_base_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "unet/w.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../w.safetensors"}}))
    with pytest.raises(ValueError, match="does not stay inside"):
        _missing_files(base)
    (base / "unet/w.safetensors.index.json").unlink()
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "../other": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(ValueError, match="does not stay inside"):
        _missing_files(base)


def with_train_engine(project: Project, **fields: Any) -> Project:
    placement = project.placement.model_copy(update={"train": Placement(**fields)})
    return project.model_copy(update={"placement": placement})


def test_an_unknown_engine_of_a_placement_is_named(project: Project, settings: Settings) -> None:
    assert doctor._placement(project, settings) == "engines: local"
    with pytest.raises(ValueError, match=r"Unknown engine 'rya'\. Did you mean 'ray'\?"):
        doctor._placement(with_train_engine(project, engine="rya"), settings)


def test_a_ray_cluster_that_does_not_answer_is_named_and_without_one_there_is_no_check(
    project: Project, settings: Settings
) -> None:
    assert doctor._ray_checks(project, settings) == []
    away = settings.model_copy(update={"ray_address": "http://127.0.0.1:9"})
    (check,) = doctor._ray_checks(with_train_engine(project, engine="ray", num_processes=2), away)
    assert not check.ok
    assert "http://127.0.0.1:9 does not answer" in check.found
    assert "PLUMBLINE_RAY_ADDRESS" in check.fix
    (check,) = doctor._ray_checks(with_train_engine(project, engine="ray"), settings)
    assert "needs the address of a cluster" in check.found


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
