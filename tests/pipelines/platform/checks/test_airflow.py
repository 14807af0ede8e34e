"""Checks of the DAGs and of the pool."""

from pathlib import Path

import pytest

from pipelines.platform import dag_states
from pipelines.platform.checks import airflow
from pipelines.platform.checks.result import check
from pipelines.platform.dag_states import _DagStates
from pipelines.project.file import Project, load_project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


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
    seen = check("dags", lambda: airflow._dags(Workspace(project, settings)), "fix")
    assert seen.ok is ok
    assert found in seen.found


def test_a_configured_airflow_must_be_reachable(project: Project, settings: Settings) -> None:
    named_one = settings.model_copy(update={"airflow_ui_url": "http://127.0.0.1:9", "airflow_user": "ada"})
    with pytest.raises(ValueError, match=r"Airflow is not reachable: http://127\.0\.0\.1:9 does not respond"):
        airflow._dags(Workspace(project, named_one))


@pytest.mark.parametrize(
    ("reachable", "problem", "ok", "found"),
    [
        (False, "", True, "not known, as Airflow is not reachable"),
        (True, "", True, "large enough for every job"),
        (True, "Airflow has no pool 'gpu'.", False, "Airflow has no pool 'gpu'."),
    ],
    ids=["off", "good", "missing"],
)
def test_the_pool_is_checked(
    reachable: bool,
    problem: str,
    ok: bool,
    found: str,
    project: Project,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = dag_states._DagStates(reachable=reachable, paused_dags=(), missing_dags=(), pool_problem=problem)
    monkeypatch.setattr(dag_states, "read_dag_states", lambda *_: states)
    seen = airflow.airflow_checks(Workspace(project, settings))[1]
    assert (seen.name, seen.ok, seen.found) == ("pool", ok, found)
    assert ("plumbline setup-airflow" in seen.fix) is not ok
