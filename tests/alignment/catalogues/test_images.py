"""Aspect buckets against values computed by hand."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.catalogues.images import (
    AspectBuckets,
    Bucket,
    Images,
    Square,
    _bucket_sizes,
    bucket_of_pair,
    buckets_of,
    is_mirrored,
)

SMALL = _bucket_sizes(64, step=16, max_aspect=2.0)


def test_sizes_of_a_small_square_by_hand() -> None:
    """Area 4096: 48 x 85 and 80 x 51 fit, cut to steps; 96 x 42 is 96 x 32, longer than 2 to 1."""
    assert (Bucket(48, 80), Bucket(64, 64), Bucket(80, 48)) == SMALL


def test_sizes_of_sdxl() -> None:
    sizes = [(768, 1344), (832, 1216), (896, 1152), (960, 1088)]
    expected = [*sizes, (1024, 1024), *((height, width) for width, height in reversed(sizes))]
    assert [(bucket.width, bucket.height) for bucket in _bucket_sizes(1024, step=64, max_aspect=2.0)] == expected


@pytest.mark.parametrize("resolution", [512, 768, 1024])
@pytest.mark.parametrize("step", [16, 64])
@pytest.mark.parametrize("max_aspect", [1.0, 1.5, 4.0])
def test_sizes_fill_the_area_and_come_in_both_orientations(resolution: int, step: int, max_aspect: float) -> None:
    sizes = _bucket_sizes(resolution, step=step, max_aspect=max_aspect)
    assert Bucket(resolution, resolution) in sizes
    assert {(b.height, b.width) for b in sizes} == {(b.width, b.height) for b in sizes}
    for bucket in sizes:
        assert bucket.width % step == bucket.height % step == 0
        assert bucket.width * bucket.height <= resolution**2 < (bucket.width + step) * bucket.height
        assert 1 / max_aspect <= bucket.width / bucket.height <= max_aspect
    assert [b.log_aspect for b in sizes] == sorted({b.log_aspect for b in sizes})


def test_a_square_is_the_only_size_and_a_larger_step_is_refused() -> None:
    assert buckets_of(Square(), 512) == (Bucket(512, 512),)
    assert buckets_of(AspectBuckets(step_pixels=16), 64) == SMALL
    with pytest.raises(ValueError, match=r"step_pixels is 64, above the backbone's resolution of 48"):
        buckets_of(AspectBuckets(), 48)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ((100, 100), (100, 100), 1),
        ((160, 100), (160, 100), 2),
        ((100, 160), (50, 80), 0),
        ((160, 100), (100, 160), 1),  # a bucket between the two
        ((900, 100), (800, 100), 2),  # beyond the limit
        ((200, 100), (100, 100), 2),  # mean 1.41, nearer to 1.67 than to 1
        ((128, 100), (128, 100), 1),  # 1.28 is below sqrt(5 / 3) = 1.29
        ((130, 100), (130, 100), 2),
    ],
)
def test_the_bucket_depends_on_both_images(chosen: tuple[int, int], rejected: tuple[int, int], expected: int) -> None:
    assert bucket_of_pair(SMALL, chosen, rejected) == expected
    assert bucket_of_pair(SMALL, rejected, chosen) == expected


def test_a_tie_between_buckets_goes_to_the_narrower_one() -> None:
    """Log aspects 0.5 above and below: the rounding of logarithms must not decide."""
    two = (Bucket(48, 80), Bucket(80, 48))
    assert math.isclose(two[0].log_aspect, -two[1].log_aspect)
    assert bucket_of_pair(two, (70, 70), (3, 3)) == 0


def test_a_flip_is_a_fair_coin_that_depends_on_the_pair_alone() -> None:
    flips = [is_mirrored(Square(flip=True), f"{number:064x}") for number in range(1000)]
    assert 450 < sum(flips) < 550
    assert flips == [is_mirrored(AspectBuckets(flip=True), f"{number:064x}") for number in range(1000)]
    assert not any(is_mirrored(Square(), f"{number:064x}") for number in range(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "aspect_buckets", "step_pixels": 24},
        {"kind": "aspect_buckets", "max_aspect": 0.5},
        {"kind": "square", "step_pixels": 64},
        {"kind": "round"},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Images).validate_python(wrong)
