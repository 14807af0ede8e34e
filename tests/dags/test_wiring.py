"""Every DAG parses, has owner and retries, the edges we expect, and GPU tasks in the GPU pool."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EDGES = {
    "shapes.ingest": {("list_shards", "ingest_shard"), ("ingest_shard", "announce_pairs")},
    "shapes.train": {
        ("build_snapshot", "enough_new_pairs"),
        ("build_snapshot", "encode"),
        ("build_snapshot", "train"),
        ("build_snapshot", "register"),
        ("enough_new_pairs", "encode"),
        ("encode", "train"),
        ("train", "register"),
    },
    "shapes.promote": {
        ("pick_candidate", "is_challenger"),
        ("pick_candidate", "evaluate"),
        ("pick_candidate", "gate"),
        ("is_challenger", "evaluate"),
        ("evaluate", "gate"),
        ("gate", "promote"),
    },
    "shapes.rollback": set(),
}


LABELLED = """
[labelling]
judges = ["taste_a"]
method = { kind = "proxy_vote" }
"""
DRAWN = """
[[sources]]
name = "style"
kind = "self_generated"
licence = "CC0-1.0"
[sources.draw]
prompts = "few.txt"
chosen_template = "{prompt}, bright"
seeds = [0]
sampler = { steps = 5 }

[snapshot]"""


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        yield dags_of(ROOT / "projects", tmp_path_factory.mktemp("airflow"), patch)


def dags_of(projects: Path, airflow_home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every DAG of the shapes project in a folder of projects."""
    patch.setenv("AIRFLOW_HOME", str(airflow_home))
    patch.setenv("PLUMBLINE_PROJECTS_DIR", str(projects))
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "dags").glob("*.py")):
        if path.name in ("__init__.py", "assets.py"):
            continue
        spec = importlib.util.spec_from_file_location(f"wiring_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {name: value for name, value in vars(module).items() if name.startswith("shapes.")}
    return found


def test_every_dag_is_there(dags: dict[str, Any]) -> None:
    assert set(dags) == set(EDGES)


@pytest.mark.parametrize("dag_id", EDGES)
def test_edges(dags: dict[str, Any], dag_id: str) -> None:
    edges = {(task.task_id, child) for task in dags[dag_id].tasks for child in task.downstream_task_ids}
    assert edges == EDGES[dag_id]


def test_assets_link_the_dags(dags: dict[str, Any]) -> None:
    produced = {a.name for d in dags.values() for t in d.tasks for a in t.outlets}
    conditions = [getattr(dag.timetable, "asset_condition", None) for dag in dags.values()]
    wanted = {asset.name for condition in conditions if condition for asset in condition.objects}
    assert produced == wanted == {"shapes.pairs", "shapes.candidate"}


def test_owner_retries_and_one_run_at_a_time(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.max_active_runs == 1
        for task in dag.tasks:
            assert task.owner == "plumbline"
            assert task.retries == (0 if task.task_id == "rollback" else 2)


def test_gpu_work_waits_in_the_gpu_pool(dags: dict[str, Any]) -> None:
    pools = {task.task_id: task.pool for dag in dags.values() for task in dag.tasks}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {"encode", "train", "evaluate"}


def test_dag_files_are_wiring_only() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path


def test_labels_come_before_features_and_drawing_before_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "projects" / "shapes.toml").read_text().replace("[snapshot]", DRAWN, 1)
    (tmp_path / "shapes.toml").write_text(text + LABELLED)
    dags = dags_of(tmp_path, tmp_path / "airflow", monkeypatch)
    train, ingest = (dags[f"shapes.{name}"].task_dict for name in ("train", "ingest"))
    assert train["enough_new_pairs"].downstream_task_ids == {"label"}
    assert train["label"].downstream_task_ids == {"encode", "train", "register"}
    assert "encode" not in train["build_snapshot"].downstream_task_ids
    assert ingest["draw_style"].downstream_task_ids == {"list_shards"}
    assert {train["label"].pool, ingest["draw_style"].pool} == {"gpu"}
