"""The tests of the engines' contract that take too long on a Ray cluster for `make test`."""

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give those tests the marker of `make test-loop`."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent == Path(__file__).parent and params.get("bench") == "ray":
            assert isinstance(item, pytest.Function)
            if item.originalname not in item.module.FAST_ON_RAY:
                item.add_marker(pytest.mark.loop)
