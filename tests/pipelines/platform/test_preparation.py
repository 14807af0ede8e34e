"""A fresh Airflow is ready when every DAG of every project exists, and not before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.platform import preparation
from pipelines.project.file import load_project
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "projects" / "shapes.toml"
NO_DAGS = ("__init__.py", preparation.CHECK_FILE)
PLATFORM: Any = SimpleNamespace(airflow=SimpleNamespace(url="http://127.0.0.1:1"))


class FakeAirflow:
    """Knows one DAG more at each request."""

    def __init__(self, dag_ids: list[str], errors: list[str]) -> None:
        self.found, self.errors = dag_ids, errors
        self.asked = 0
        self.pools: list[tuple[str, int]] = []

    def ensure_pool(self, name: str, slots: int) -> None:
        self.pools.append((name, slots))

    def dag_ids(self) -> list[str]:
        self.asked += 1
        return self.found[: self.asked]

    def import_errors(self) -> list[str]:
        return self.errors


def prepared(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch, projects_dir: Path = SHAPES.parent) -> Any:
    monkeypatch.setattr(preparation, "AirflowApi", lambda *_, **__: fake)
    monkeypatch.setattr(preparation.services, "admin_password", lambda _: "secret")
    monkeypatch.setattr(preparation.time, "sleep", lambda _: None)
    return preparation.prepare_airflow(load_settings({"PLUMBLINE_PROJECTS_DIR": str(projects_dir)}), PLATFORM)


def test_it_waits_for_the_last_of_the_dags(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sorted(preparation.expected_dags(load_project(SHAPES)))
    fake = FakeAirflow(wanted, errors=[])
    assert prepared(fake, monkeypatch) is fake
    assert (fake.asked, fake.pools) == (len(wanted), [("gpu", 2)])


def test_a_file_that_does_not_parse_ends_the_wait_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"monitor_champion\.py: SyntaxError"):
        prepared(FakeAirflow(["shapes.ingest"], errors=["monitor_champion.py: SyntaxError"]), monkeypatch)


def test_another_broken_project_does_not_stop_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shapes.toml").write_text(f'extends = ["{SHAPES}"]\n')
    (tmp_path / "second.toml").write_text(f'extends = ["{SHAPES}"]\nname = "second"\n[gate]\nminimum_promps = 7\n')
    wanted = sorted(preparation.expected_dags(load_project(SHAPES)))
    fake = FakeAirflow(wanted, errors=["check_projects.py: ValueError: second.toml: Unknown field"])
    assert prepared(fake, monkeypatch, tmp_path) is fake
    assert fake.asked == len(wanted)
    assert "gate.minimum_promps" in caplog.text


def test_a_project_without_rewards_has_no_reward_dag() -> None:
    project = load_project(SHAPES)
    others = preparation.expected_dags(project.model_copy(update={"rewards": ()}))
    assert preparation.expected_dags(project) - others == {"shapes.reward"}


def test_only_a_project_that_asks_people_has_an_approve_dag() -> None:
    project = load_project(SHAPES)
    asking = project.model_copy(update={"approval": project.approval.model_copy(update={"mode": "required"})})
    assert preparation.expected_dags(asking) - preparation.expected_dags(project) == {"shapes.approve"}


def test_the_names_are_those_of_the_dag_files() -> None:
    """Each file makes one DAG, and contains the DAG's name."""
    files = [path.read_text() for path in (ROOT / "dags").glob("*_*.py") if path.name not in NO_DAGS]
    wanted = (*preparation.DAGS, "reward", "approve")
    for name in wanted:
        assert sum(f' dag_id=f"{{project.name}}.{name}"' in text for text in files) == 1
    assert len(files) == len(wanted)
