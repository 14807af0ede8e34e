"""Import the example's scripts as they run: with their own folder first on sys.path."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SHAPES_DIR = Path(__file__).parents[3] / "examples" / "shapes"


@pytest.fixture(scope="session")
def shapes_dir() -> Path:
    """The folder of the shapes world."""
    return SHAPES_DIR


@pytest.fixture(scope="session")
def shapes_module() -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that imports one of the example's modules by name."""
    sys.path.insert(0, str(SHAPES_DIR))
    yield importlib.import_module
    sys.path.remove(str(SHAPES_DIR))
