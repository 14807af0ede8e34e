"""A pool of decoding processes: one hostile image costs that image alone."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hostile_images import jpeg_with_scans
from PIL import Image

from pipelines.intake.decoding import pool as pool_module
from pipelines.intake.decoding.pool import DecodingPool, EncodedImage, shared_pool
from pipelines.intake.image_facts import DecodingLimits, ImageFacts, image_facts

LIMITS = DecodingLimits(20_000_000, 50_000_000, 16_384, ("JPEG", "PNG", "WEBP"), (255, 255, 255), 5.0)
DYING = """
import os, signal, time
from pipelines.intake.decoding import worker
decode = worker.decode
def hostile(data, limits, sha256):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        time.sleep(1000)
    return decode(data, limits, sha256)
worker.decode = hostile
worker.main()
"""


def encoded(data: bytes) -> EncodedImage:
    return EncodedImage(data, hashlib.sha256(data).hexdigest())


def facts_of(pool: DecodingPool, images: list[EncodedImage], limits: DecodingLimits) -> list[ImageFacts]:
    return [pending.result() for pending in pool.submit(images, limits)]


def pictures(count: int) -> list[EncodedImage]:
    found = []
    for seed in range(count):
        stream = BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
        found.append(encoded(stream.getvalue()))
    return found


@pytest.fixture(scope="module")
def dying() -> Iterator[DecodingPool]:
    pool = DecodingPool(workers=2, command=(sys.executable, "-P", "-c", DYING))
    yield pool
    pool.close()


def test_facts_are_those_of_the_images_in_order() -> None:
    images = pictures(70)
    assert facts_of(shared_pool(), images, LIMITS) == [image_facts(image.data, LIMITS) for image in images]
    assert facts_of(shared_pool(), [], LIMITS) == []


def test_a_crash_costs_one_image(dying: DecodingPool) -> None:
    images = pictures(40)
    images[7:7] = [encoded(b"crash")]
    found = facts_of(dying, images, LIMITS)
    assert [facts.problem for facts in found] == [""] * 7 + ["decode_failed"] + [""] * 33
    assert (found[7].sha256, found[7].num_bytes) == (images[7].sha256, 5)


def test_a_hang_costs_one_image(dying: DecodingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SPARE_SECONDS", 3.0)
    monkeypatch.setattr(pool_module, "CLOCK_PER_CPU_SECOND", 0.0)
    images = [encoded(b"hang"), *pictures(3)]
    assert [facts.problem for facts in facts_of(dying, images, LIMITS)] == ["decode_too_slow", "", "", ""]


def test_processes_that_are_killed_from_outside_cost_no_image() -> None:
    pool = DecodingPool(workers=2)
    images = pictures(70)
    expected = facts_of(pool, images, LIMITS)
    workers = list(pool._idle)
    assert len(workers) == 2
    for worker in workers:
        worker._process.kill()
        worker._process.wait()
    assert facts_of(pool, images[:2], LIMITS) == expected[:2]
    pool.close()


def test_a_jpeg_that_takes_too_much_cpu_time_costs_one_image() -> None:
    images = pictures(3)
    images[1:1] = [encoded(jpeg_with_scans(99, side=4000))]
    limits = replace(LIMITS, max_decode_seconds=0.03)
    assert [facts.problem for facts in facts_of(shared_pool(), images, limits)] == ["", "decode_too_slow", "", ""]


def test_requests_are_bounded_in_images_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BYTES_AT_ONCE", 10)
    images = [encoded(b"x" * size) for size in (9, 1, 30, 4, 6, 1)]
    sizes = [[len(image.data) for image in request] for request in pool_module._requests(images)]
    assert sizes == [[9, 1], [30], [4, 6], [1]]
    monkeypatch.setattr(pool_module, "IMAGES_AT_ONCE", 1)
    assert len(pool_module._requests(images)) == 6


def test_a_process_that_cannot_start_is_an_error() -> None:
    pool = DecodingPool(workers=1, command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match=r"could not start \(exit code 3\)"):
        facts_of(pool, pictures(1), LIMITS)
    pool.close()
