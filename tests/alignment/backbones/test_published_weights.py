"""The catalogue of published bases holds what torch counts from their configurations."""

import json

import pytest

from alignment.backbones.published_weights import _catalogue_text, counted
from alignment.catalogues.published import PUBLISHED_FILE, published_bases


@pytest.mark.parametrize("name", sorted(published_bases()))
def test_the_weights_are_those_of_the_configuration(name: str) -> None:
    base = published_bases()[name]
    groups = [[group.name, list(group.shape), group.count] for group in base.weights]
    assert groups == counted(base.family, base.config)


def test_the_file_is_as_the_module_writes_it() -> None:
    text = PUBLISHED_FILE.read_text(encoding="utf-8")
    assert _catalogue_text(json.loads(text)) == text
