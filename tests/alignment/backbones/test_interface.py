"""Every catalogued backbone implements the training interface."""

import inspect

import pytest

from alignment.backbones.interface import Backbone
from alignment.catalogues.backbones import BACKBONES, BackboneParams
from alignment.catalogues.lookup import resolve


@pytest.mark.parametrize("params", BACKBONES)
def test_implementations_have_the_protocols_methods(params: type[BackboneParams]) -> None:
    implementation = resolve(params.implementation)
    required = [name for name in vars(Backbone) if not name.startswith("_")]
    assert len(required) >= 8
    for name in required:
        if isinstance(getattr(Backbone, name), property):
            assert isinstance(getattr(implementation, name), property), name
            continue
        ours = inspect.signature(getattr(implementation, name))
        assert list(ours.parameters) == list(inspect.signature(getattr(Backbone, name)).parameters), name
