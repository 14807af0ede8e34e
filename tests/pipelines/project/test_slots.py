"""Slots of the pool: one for each process; local jobs share their host."""

from pathlib import Path

from alignment.contracts.jobs import Placement
from pipelines.project.file import Project, load_project
from pipelines.project.slots import host_slots, job_slots, largest_job

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


def project(**placements: Placement) -> Project:
    shapes = load_project(SHAPES)
    return shapes.model_copy(update={"placement": shapes.placement.model_copy(update=placements)})


def test_local_jobs_take_the_slots_of_the_largest_of_them() -> None:
    plain = project()
    assert host_slots([plain]) == 2
    assert job_slots(plain.placement.encode, host_slots([plain])) == 2
    large = project(encode=Placement(num_processes=5))
    assert host_slots([plain, large]) == 5
    assert job_slots(plain.placement.train, host_slots([plain, large])) == 5


def test_a_job_on_ray_takes_its_own_processes() -> None:
    mixed = project(train=Placement(engine="ray", num_processes=8, min_processes=2))
    assert host_slots([mixed]) == 2
    assert job_slots(mixed.placement.train, 2) == 8
    assert job_slots(Placement(engine="ray"), 2) == 1


def test_the_largest_job_is_named() -> None:
    mixed = project(train=Placement(engine="ray", num_processes=8))
    assert largest_job([project(), mixed]) == (8, "shapes", "train")
    assert largest_job([]) == (1, "", "")
    assert host_slots([]) == 1
