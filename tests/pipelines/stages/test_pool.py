"""The stage that the DAGs begin with."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.platform import dag_states
from pipelines.stages.pool import check_pool

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


def test_it_asks_the_airflow_of_this_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PLUMBLINE_AIRFLOW_UI_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PLUMBLINE_AIRFLOW_USER", "ada")
    asked: list[Any] = []
    monkeypatch.setattr(dag_states, "_ask", lambda *facts: asked.append(facts) or dag_states._DagStates(reachable=True))
    check_pool(str(SHAPES))
    assert [(facts[0].name, *facts[2:4]) for facts in asked] == [("shapes", "http://127.0.0.1:9", "ada")]
