"""Published bases: every family has one, with the published number of weights."""

import math

import pytest

from alignment.catalogues.backbones import BACKBONES
from alignment.catalogues.published import published_base, published_bases

MILLIONS = {"sd15": 859.5, "sd21": 865.9, "sdxl": 2567.5, "sd35_medium": 2243.2, "flux1_dev": 11901.4}


@pytest.mark.parametrize("name", MILLIONS)
def test_the_number_of_weights_is_the_published_one(name: str) -> None:
    count = sum(group.count * math.prod(group.shape) for group in published_bases()[name].weights)
    assert count / 1e6 == pytest.approx(MILLIONS[name], abs=0.1)


def test_every_family_has_a_published_base() -> None:
    for params in BACKBONES:
        family = params.model_fields["name"].default
        assert published_base(family).family == family
