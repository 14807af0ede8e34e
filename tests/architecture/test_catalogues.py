"""Every entry of a catalogue resolves, matches what its users call, and has its mirror test."""

import inspect
from pathlib import Path

import pytest

from alignment.catalogues.backbones import BACKBONES
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import OBJECTIVES, ObjectiveParams
from alignment.catalogues.rewards import REWARDS
from pipelines.dispatch.engines.catalogue import ENGINES
from pipelines.intake.sources.catalogue import SOURCES

ROOT = Path(__file__).parents[2]
ENTRIES = (*OBJECTIVES, *REWARDS, *BACKBONES, *ENGINES, *SOURCES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_implementation_resolves_and_has_a_test(entry: type) -> None:
    target: str = entry.implementation  # type: ignore[attr-defined]
    assert callable(resolve(target))
    *folders, file = target.partition(":")[0].split(".")
    mirror = ROOT.joinpath("tests", *folders, f"test_{file}.py")
    contract_suite = ROOT.joinpath("tests", *folders, "test_contract.py")
    assert mirror.is_file() or contract_suite.is_file(), f"{target} has no test at {mirror}"


@pytest.mark.parametrize("entry", OBJECTIVES, ids=lambda entry: entry.__name__)
def test_objective_asks_for_a_reference_by_argument(entry: type[ObjectiveParams]) -> None:
    names = list(inspect.signature(resolve(entry.implementation)).parameters)
    assert names == ["policy", *["reference"] * entry.needs_reference, "params"]


def test_names_are_unique() -> None:
    for catalogue, field in ((OBJECTIVES, "name"), (REWARDS, "kind"), (BACKBONES, "name")):
        names = [entry.model_fields[field].default for entry in catalogue]
        assert len(names) == len(set(names))
