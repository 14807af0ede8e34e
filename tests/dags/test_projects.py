"""Each project loads on its own in Airflow's DagBag: a broken one is an import error, the others have their DAGs."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from pipelines.platform.preparation import expected_dags
from pipelines.project.file import load_project

# Airflow 3.3 reads .airflowignore with a class that its library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "projects" / "shapes.toml"
DRAWN = """
[[sources]]
name = "{name}"
kind = "self_generated"
licence = "CC0-1.0"
draw = {{ prompts = "few.txt", chosen_template = "{{prompt}}, bright", seeds = [0], sampler = {{ steps = 5 }} }}
"""


@pytest.fixture
def projects_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of projects that contains one valid project."""
    folder = tmp_path / "projects"
    folder.mkdir()
    (folder / "shapes.toml").write_text(f'extends = ["{SHAPES}"]\n')
    monkeypatch.setenv("PLUMBLINE_PROJECTS_DIR", str(folder))
    return folder


@pytest.fixture
def write(projects_dir: Path) -> Callable[[str, str], Path]:
    """Add a project of that name over the shapes project."""

    def make(name: str, tables: str) -> Path:
        path = projects_dir / f"{name}.toml"
        path.write_text(f'extends = ["{SHAPES}"]\nname = "{name}"\n{tables}')
        return path

    return make


def read_bag() -> tuple[set[str], dict[str, str]]:
    """Ids of the DAGs and import errors by file, as Airflow's parser finds them."""
    bag = DagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags", bundle_name="dags")
    return set(bag.dag_ids), bag.import_errors


def shapes_dags() -> set[str]:
    return expected_dags(load_project(SHAPES))


def test_valid_projects_have_no_import_error(projects_dir: Path, write: Callable[[str, str], Path]) -> None:
    second = write("second", "")
    assert read_bag() == (shapes_dags() | expected_dags(load_project(second)), {})


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ("[gate]\nminimum_promps = 7\n", "Unknown field 'gate.minimum_promps'"),
        ('[schedule]\ntrain = "@weakly"\n', "schedule.train: not a cron expression"),
        ("[gate\n", "is not valid TOML"),
        ("[approval]\ntimeout_hours = 1e300\n", "approval.timeout_hours"),
        (DRAWN.format(name="two words"), "sources: 'two words'"),
        (DRAWN.format(name="twice") * 2, "sources: two are named 'twice'"),
    ],
    ids=["typo", "cron", "toml", "timeout", "task_id", "repeated"],
)
def test_a_broken_project_is_the_one_import_error(write: Callable[[str, str], Path], tables: str, named: str) -> None:
    path = write("second", tables)
    dag_ids, errors = read_bag()
    assert dag_ids == shapes_dags(), "the sound project keeps its DAGs"
    assert list(errors) == ["check_projects.py"]
    assert str(path) in errors["check_projects.py"]
    assert named in errors["check_projects.py"]


def test_every_broken_project_is_named(write: Callable[[str, str], Path], projects_dir: Path) -> None:
    paths = [write(name, "[gate]\nminimum_promps = 7\n") for name in ("second", "third")]
    (projects_dir / "fourth.toml").mkdir()
    _, errors = read_bag()
    for path in (*paths, projects_dir / "fourth.toml"):
        assert str(path) in errors["check_projects.py"]


def test_a_skipped_project_is_logged_where_its_dags_are_missing(
    write: Callable[[str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    from dags.assets import projects

    path = write("second", "[gate]\nminimum_promps = 7\n")
    with caplog.at_level(logging.ERROR):
        assert [project.name for project in projects()] == ["shapes"]
    assert str(path) in caplog.text
    assert "gate.minimum_promps" in caplog.text
