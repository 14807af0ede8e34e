"""Checks of a host and its servers."""

from pathlib import Path

import pytest
from s3_servers import KEYS, serve_meagre_s3

from pipelines.contracts.withdrawals import PurgePlan, Withdrawal
from pipelines.host import this_host
from pipelines.platform.checks import installation
from pipelines.platform.checks.result import check
from pipelines.project.file import Project, load_project
from pipelines.records.withdrawals import record_purge, record_withdrawal
from pipelines.settings import Settings
from pipelines.store.storage import open_store

ROOT = Path(__file__).parents[4]


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


def test_a_store_that_ignores_conditional_writes_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serve_meagre_s3() as (endpoint, _):
        on_s3 = settings.model_copy(update={"store_uri": "s3://bucket/root", "s3_endpoint_url": endpoint})
        seen = check("store", lambda: installation._store(on_s3), "fix")
    assert not seen.ok
    assert "does not honour conditional writes" in seen.found


def test_a_registry_on_one_host_beside_a_shared_store_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.runs, "check_reachable", lambda _: "sqlite:///mlflow.db")
    assert "WARNING" not in installation._tracking(settings)
    shared = settings.model_copy(update={"store_uri": "s3://bucket/root"})
    assert f"WARNING: it is a file of host {this_host()}" in installation._tracking(shared)
    assert "WARNING" not in installation._tracking(shared.model_copy(update={"tracking_uri": "https://mlflow"}))


def test_each_broken_project_file_is_named(settings: Settings) -> None:
    settings.projects_dir.mkdir()
    assert installation._projects(settings) == f"no project file in {settings.projects_dir}"
    sound = f'extends = ["{ROOT}/projects/shapes.toml"]\n'
    (settings.projects_dir / "shapes.toml").write_text(sound)
    assert installation._projects(settings) == "1 project file can be loaded: shapes"
    (settings.projects_dir / "second.toml").write_text(sound + 'name = "second"\n[gate]\nminimum_promps = 7\n')
    seen = check("projects", lambda: installation._projects(settings), "fix")
    assert not seen.ok
    assert f"{settings.projects_dir}/second.toml: Unknown field 'gate.minimum_promps'" in seen.found


def test_a_full_disk_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "MINIMUM_FREE_BYTES", 10**18)
    with pytest.raises(ValueError, match=r"need at least .* GiB"):
        installation._disk(settings)


def test_an_engine_without_accelerate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch", "diffusers", "peft"}
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: object() if name in installed else None)
    with pytest.raises(ValueError, match="cannot start jobs on this host: accelerate not installed"):
        installation._engine()


def test_withdrawn_pairs_that_may_still_be_stored_are_a_warning(settings: Settings) -> None:
    store, plan = open_store(settings.store_uri, settings), PurgePlan(items=(), pair_ids={})
    assert installation._withdrawals(store) == "nothing is withdrawn"
    own = Withdrawal(kind="pair", value="a" * 64)
    record_withdrawal(store, own, reason="r", by="ada")
    assert "withdrawals that hold: 1; WARNING: 1 came after the last purge" in installation._withdrawals(store)
    started = record_purge(store, plan, by="ada")
    with pytest.raises(ValueError, match="purge number 1 was interrupted"):
        installation._withdrawals(store)
    record_purge(store, plan, by="ada", finishes=started.number)
    assert installation._withdrawals(store) == "withdrawals that hold: 1"
    record_withdrawal(store, own, reason="r", by="ada", is_revoked=True)
    assert installation._withdrawals(store) == "nothing is withdrawn"
