"""The fields of jobs: value objects, or their positions and names in a project file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.data import EncodeSpec
from pipelines.dispatch.job_kinds import JOB_KINDS, DrawPairs, Soup, Train, TrainReward, find_kind, kind_of
from pipelines.project.file import Project, load_project

SHAPES = Path(__file__).parents[3] / "projects" / "shapes.toml"


@pytest.fixture(scope="module")
def shapes() -> Project:
    return load_project(SHAPES)


def test_a_position_or_a_name_becomes_the_section_of_the_project(shapes: Project) -> None:
    recipe = shapes.recipes()[0]
    assert Train.read({"recipe": 0}, shapes) == Train(recipe=recipe)
    assert Train.read({"recipe": recipe}, shapes) == Train(recipe=recipe)
    source = shapes.sources[0]
    assert DrawPairs.read({"source": source.name}, shapes) == DrawPairs(source=source)
    assert TrainReward.model_fields["reward"].is_required()


@pytest.mark.parametrize("position", [1, -1])
def test_a_position_outside_the_project_is_refused(shapes: Project, position: int) -> None:
    with pytest.raises(ValueError, match=rf"There is no recipe {position}\. The project file has 1, counted from 0"):
        Train.read({"recipe": position}, shapes)


def test_an_unknown_source_is_refused_with_the_known_ones(shapes: Project) -> None:
    with pytest.raises(ValueError, match=r"Unknown source 'shapes_pair'\. Did you mean 'shapes_pairs'"):
        DrawPairs.read({"source": "shapes_pair"}, shapes)


class Lazy:
    """Results of mapped tasks: they can be sliced, but must not be iterated over."""

    def __init__(self, *values: dict[str, Any]) -> None:
        self.values = list(values)

    def __getitem__(self, part: slice) -> list[dict[str, Any]]:
        return self.values[part]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        raise AssertionError("iterated over")


def test_a_soup_reads_the_results_of_mapped_tasks_by_slice(shapes: Project, trained_json: Any) -> None:
    given = {"trainings": [{"recipe": 0}, {"recipe": 0}], "results": Lazy(trained_json("c"), trained_json("d"))}
    soup = Soup.read(given, shapes)
    assert [training.recipe for training in soup.trainings] == [shapes.recipes()[0]] * 2
    assert [run.weights_digest for run in soup.results] == ["c" * 64, "d" * 64]


def test_a_kind_is_found_by_its_name_and_by_its_specification() -> None:
    assert [find_kind(kind.name) for kind in JOB_KINDS] == list(JOB_KINDS)
    spec = EncodeSpec.model_construct()
    assert kind_of(spec).name == "encode"
    with pytest.raises(ValueError, match=r"Unknown kind of job 'encoed'\. Did you mean 'encode'\? Known: calibrate, "):
        find_kind("encoed")
