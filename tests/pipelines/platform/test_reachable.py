"""The store and MLflow are looked at and never created."""

from pathlib import Path

import pytest

from pipelines.platform.reachable import store_problem, tracking_problem
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import runs


def test_what_does_not_exist_is_named_and_not_created(settings: Settings, tmp_path: Path) -> None:
    found = store_problem(settings)
    assert found.startswith(f"There is no store at {settings.store_uri}. ")
    assert "PLUMBLINE_STORE_URI" in found
    found = tracking_problem(settings)
    assert found.startswith(f"MLflow has no database at {tmp_path}/mlflow.db. ")
    assert "MLFLOW_TRACKING_URI" in found
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_has_no_problem_and_a_file_in_its_place_has(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    assert "no store" in store_problem(settings.model_copy(update={"store_uri": f"file://{tmp_path}/a_file"}))
    open_store(settings.store_uri, settings).write_bytes(f"{settings.store_uri}/a", b"a")
    assert store_problem(settings) == ""


def test_a_server_that_does_not_answer_is_a_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "x")
    away = {"tracking_uri": "http://127.0.0.1:9", "store_uri": "s3://bucket/root"}
    away |= {"s3_endpoint_url": "http://127.0.0.1:9"}
    changed = settings.model_copy(update=away)
    assert "http://127.0.0.1:9 does not respond" in tracking_problem(changed)
    assert "127.0.0.1:9" in store_problem(changed)


def test_an_existing_database_is_asked(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    asked = []
    monkeypatch.setattr(runs, "check_reachable", asked.append)
    assert tracking_problem(settings) == ""
    assert asked == [settings]
