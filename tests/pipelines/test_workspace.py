"""A project opened with the installation that it runs on."""

from pathlib import Path

import pytest

from pipelines.workspace import open_workspace

SHAPES = Path(__file__).parents[2] / "projects/shapes.toml"


def test_the_store_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_STORE_URI", tmp_path.as_uri())
    workspace = open_workspace(SHAPES)
    assert workspace.project.name == "shapes"
    assert workspace.store is workspace.store
    assert workspace.store.uri("raw") == f"{tmp_path.as_uri()}/raw"


def test_overrides_reach_every_recipe() -> None:
    assert all("seed=9" in section.overrides for section in open_workspace(SHAPES, ("seed=9",)).project.train)


def test_a_missing_project_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.toml does not exist"):
        open_workspace(tmp_path / "nowhere.toml")
