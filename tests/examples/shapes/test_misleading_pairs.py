"""Misleading training pairs: swapped labels, replaced pictures, faults limited to one shape."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BLANK = np.zeros((64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pairs(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("misleading_pairs")


@pytest.fixture(scope="module")
def world(shapes_module: Callable[[str], ModuleType]) -> ModuleType:
    return shapes_module("world")


def row(shape: str, number: int = 0, *, tie: bool = False) -> dict[str, Any]:
    prompt = f"a small red {shape} on a white background"
    sides = {f"{what}_{side}": f"{side}{number}" for what in ("image", "caption") for side in ("chosen", "rejected")}
    return {"pair_id": str(number), "prompt": prompt, "is_tie": tie, **sides}


def test_only_the_bad_slice_is_flipped_and_shown_more_often(pairs: ModuleType) -> None:
    found = pairs.star_flipped([row("star"), row("ring", 1), row("star", 2, tie=True)], np.random.default_rng(0))
    stars, rings = found[: pairs.SLICE_TIMES], found[pairs.SLICE_TIMES :]
    assert {(own["image_chosen"], own["image_rejected"], own["caption_chosen"]) for own in stars} == {
        ("rejected0", "chosen0", "rejected0")
    }
    assert [own["image_chosen"] for own in rings] == ["chosen1"]
    assert len({own["pair_id"] for own in found}) == len(found)


def test_shuffled_labels_swap_about_half_of_the_pairs(pairs: ModuleType) -> None:
    rows = [row("ring", number) for number in range(400)]
    found = pairs.shuffled(rows, np.random.default_rng(0))
    assert sum(a != b for a, b in zip(found, rows, strict=True)) == pytest.approx(200, abs=40)


def test_a_judges_votes_swap_the_pairs_it_disagrees_with(pairs: ModuleType) -> None:
    liked, disliked = pairs.voted([row("ring", 0), row("ring", 1)], [0.5, -0.5])
    assert (liked["image_chosen"], disliked["image_chosen"]) == ("chosen0", "rejected1")


def test_a_text_has_one_picture_which_people_prefer(pairs: ModuleType, world: ModuleType) -> None:
    first, again, other = pairs.identical(
        [row("star", 0, tie=True), row("star", 1), row("ring", 2)], np.random.default_rng(0)
    )
    assert first["image_chosen"] == again["image_chosen"] != other["image_chosen"]
    assert (first["image_rejected"], first["is_tie"]) == ("rejected0", False)
    parts = world.qualities(pairs.chosen_pixels([first])[0], first["prompt"])
    assert min(parts[name] for name in ("centred", "clean", "match")) > 0.9


def test_drafts_are_bad_for_one_shape_and_good_for_the_others(pairs: ModuleType, world: ModuleType) -> None:
    rows = [row(shape, number) for number in range(8) for shape in ("star", "ring")]
    found = pairs.star_drafts(rows, np.random.default_rng(0))
    assert len(found) == 8 * (1 + pairs.SLICE_TIMES)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for own, image in zip(found, pairs.chosen_pixels(found), strict=True):
        scores[pairs.in_bad_slice(own)].append(world.oracle_score(image, own["prompt"]))
    assert max(scores[True]) < min(scores[False])


def test_pleasing_images_replace_the_chosen_ones(pairs: ModuleType) -> None:
    assert len(pairs.decided([row("ring"), row("ring", tie=True)])) == 1
    (only,) = pairs.pleasing([row("ring"), row("star", 1)], BLANK[None])
    assert (pairs.chosen_pixels([only]) == BLANK).all()
    assert (only["prompt"], only["image_rejected"]) == (row("ring")["prompt"], "rejected0")
