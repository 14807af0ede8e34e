"""Every entry of a catalogue resolves, has the signature that its callers need, and has a mirror test."""

import importlib
import inspect
from pathlib import Path, PurePosixPath

import pytest

from alignment.catalogues.backbones import BACKBONES
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import OBJECTIVES, ObjectiveParams
from alignment.catalogues.rewards import REWARDS
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.engines.catalogue import ENGINES
from pipelines.dispatch.job_kinds import JOB_KINDS, Job
from pipelines.intake.sources.catalogue import SOURCES
from pipelines.project.sections import PlacementSection
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]
ENTRIES = (*OBJECTIVES, *REWARDS, *BACKBONES, *ENGINES, *SOURCES)


def mirror_of(module: str) -> Path:
    *folders, file = module.split(".")
    return ROOT.joinpath("tests", *folders, f"test_{file}.py")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_implementation_resolves_and_has_a_test(entry: type) -> None:
    target: str = entry.implementation  # type: ignore[attr-defined]
    assert callable(resolve(target))
    mirror = mirror_of(target.partition(":")[0])
    contract_suite = mirror.with_name("test_contract.py")
    assert mirror.is_file() or contract_suite.is_file(), f"{target} has no test at {mirror}"


@pytest.mark.parametrize("entry", OBJECTIVES, ids=lambda entry: entry.__name__)
def test_objective_has_a_reference_argument_if_it_needs_one(entry: type[ObjectiveParams]) -> None:
    names = list(inspect.signature(resolve(entry.implementation)).parameters)
    assert names == ["policy", *["reference"] * entry.needs_reference, "params"]


@pytest.mark.parametrize("kind", JOB_KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_job_has_its_job_its_builder_and_their_tests(kind: type[Job]) -> None:
    job = importlib.import_module(f"alignment.jobs.{kind.name}")
    assert callable(job.main)
    assert getattr(job, kind.spec.__name__) is kind.spec
    parameters = list(inspect.signature(resolve(kind.builder), eval_str=True).parameters.values())
    assert [parameter.annotation for parameter in parameters] == [Workspace, kind]
    assert inspect.signature(resolve(kind.builder)).return_annotation is JobRequest
    for module in (job.__name__, kind.builder.partition(":")[0]):
        assert mirror_of(module).is_file(), f"{module} has no test at {mirror_of(module)}"


@pytest.mark.parametrize("kind", JOB_KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_job_has_a_placement_and_a_folder_of_the_store(kind: type[Job]) -> None:
    assert kind.placement in PlacementSection.model_fields
    assert PurePosixPath(kind.folder).parts
    assert not PurePosixPath(kind.folder).is_absolute()


def test_every_kind_of_job_has_a_different_name_and_specification() -> None:
    assert len({kind.name for kind in JOB_KINDS}) == len({kind.spec for kind in JOB_KINDS}) == len(JOB_KINDS)
    assert set(JOB_KINDS) == set(Job.__subclasses__())


def test_names_are_unique() -> None:
    for catalogue, field in ((OBJECTIVES, "name"), (REWARDS, "kind"), (BACKBONES, "name")):
        names = [entry.model_fields[field].default for entry in catalogue]
        assert len(names) == len(set(names))
