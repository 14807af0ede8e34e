"""The renderer and the oracle agree with each other, and each part of taste moves the score the right way."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def world(shapes_module: Load) -> ModuleType:
    return shapes_module("world")


@pytest.fixture(scope="module")
def drawing(shapes_module: Load) -> ModuleType:
    return shapes_module("drawing")


@pytest.fixture(scope="module")
def measure(shapes_module: Load) -> ModuleType:
    return shapes_module("measure")


def test_there_are_several_hundred_distinct_prompts(world: ModuleType) -> None:
    prompts = world.all_prompts()
    assert len(set(prompts)) == len(prompts) == 720
    assert [world.parse_caption(prompt).caption for prompt in prompts] == list(prompts)


def test_heldout_prompts_are_fixed_and_disjoint_from_training(world: ModuleType) -> None:
    heldout = world.heldout_prompts()
    assert len(heldout) == 200
    assert not set(heldout) & set(world.training_prompts())
    assert heldout[:2] == (
        "a small red circle on a black background",
        "a small red square on a beige background",
    )


@pytest.mark.parametrize(
    "caption",
    ["", "a red circle", "a tiny red circle on a white background", "a small red circle on a white background."],
)
def test_a_foreign_caption_is_refused(world: ModuleType, caption: str) -> None:
    with pytest.raises(ValueError, match="Not a caption of the shapes world"):
        world.parse_caption(caption)


def test_rendering_is_repeatable(world: ModuleType) -> None:
    prompts = world.all_prompts()[::37]
    first, second = (world.render(prompts, np.random.default_rng(3)) for _ in range(2))
    other = world.render(prompts, np.random.default_rng(4))
    assert first.dtype == np.uint8
    assert first.shape == (len(prompts), 64, 64, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_measurements_match_the_drawn_subject(world: ModuleType, measure: ModuleType) -> None:
    prompts = world.all_prompts()[::7]
    for prompt, image in zip(prompts, world.render(prompts, np.random.default_rng(0)), strict=True):
        subject, facts = world.parse_caption(prompt), measure.measure(image)
        assert facts.visible
        assert max(facts.shape_scores, key=facts.shape_scores.__getitem__) == subject.shape, prompt
        assert measure.hue_distance(facts.foreground, subject.colour) < 8.0, prompt
        assert world.qualities(image, prompt)["match"] > 0.85, prompt


def test_measured_place_and_edge_follow_the_scene(world: ModuleType, drawing: ModuleType, measure: ModuleType) -> None:
    subject = world.parse_caption("a medium blue circle on a beige background")
    scenes = [drawing.Scene(subject, centre_x=24.0, centre_y=38.0, softness=softness) for softness in (1.0, 3.0, 5.0)]
    facts = [measure.measure(image) for image in drawing.draw(scenes)]
    assert [round(fact.edge_width) for fact in facts] == [1, 3, 5]
    for fact in facts:
        assert (fact.centre_x, fact.centre_y) == pytest.approx((24.0, 38.0), abs=0.2)
        assert fact.area == pytest.approx(np.pi * 13**2, rel=0.03)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"vividness": 0.95}, {"vividness": 0.4}),
        ({"centre_x": 32.0}, {"centre_x": 22.0}),
        ({"softness": 1.5}, {"softness": 5.0}),
    ],
    ids=["vivid", "centred", "crisp"],
)
def test_the_population_likes_vivid_centred_crisp(
    world: ModuleType, drawing: ModuleType, better: dict[str, float], worse: dict[str, float]
) -> None:
    for prompt in world.all_prompts()[::61]:
        subject = world.parse_caption(prompt)
        images = drawing.draw([drawing.Scene(subject, **{"vividness": 0.8, **look}) for look in (better, worse)])
        assert world.oracle_score(images[0], prompt) > world.oracle_score(images[1], prompt) + 0.01, prompt


@pytest.mark.parametrize(
    "wrong", ["large red circle on a white", "small blue circle on a white", "small red star on a white"]
)
def test_the_wrong_picture_loses(world: ModuleType, drawing: ModuleType, wrong: str) -> None:
    prompt = "a small red circle on a white background"
    right, other = drawing.draw([drawing.Scene(world.parse_caption(c)) for c in (prompt, f"a {wrong} background")])
    for group in world.GROUPS:
        assert world.group_score(right, prompt, group) > world.group_score(other, prompt, group) + 0.05


def test_groups_disagree_where_they_should(world: ModuleType, drawing: ModuleType) -> None:
    prompt = "a large green star on a black background"
    subject = world.parse_caption(prompt)
    crisp, soft = drawing.draw([drawing.Scene(subject, softness=1.0), drawing.Scene(subject, softness=5.0)])
    assert world.group_score(crisp, prompt, "bold") > world.group_score(soft, prompt, "bold")
    assert world.group_score(crisp, prompt, "gentle") < world.group_score(soft, prompt, "gentle")
    vivid_off, pale_centred = drawing.draw(
        [drawing.Scene(subject, centre_x=24.0), drawing.Scene(subject, vividness=0.6)],
    )
    assert world.group_score(vivid_off, prompt, "bold") > world.group_score(pale_centred, prompt, "bold")
    assert world.group_score(vivid_off, prompt, "tidy") < world.group_score(pale_centred, prompt, "tidy")


def test_an_empty_picture_scores_zero_and_an_unknown_group_is_refused(world: ModuleType) -> None:
    blank = np.full((64, 64, 3), 128, dtype=np.uint8)
    assert world.oracle_score(blank, world.all_prompts()[0]) == 0.0
    with pytest.raises(ValueError, match=r"Unknown annotator group .loud.\. Known: bold, tidy, gentle"):
        world.group_score(blank, world.all_prompts()[0], "loud")


def test_an_image_of_another_kind_is_refused(measure: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \[64, 64, 3\], got float32 \[32, 32, 3\]"):
        measure.measure(np.zeros((32, 32, 3), dtype=np.float32))


def test_labels_are_noisy_in_the_stated_way(world: ModuleType) -> None:
    rng = np.random.default_rng(1)
    noise = world.Noise(tie_margin=0.05, temperature=0.06, lapse=0.03)
    assert world.label_for(0.5, 0.54, rng, noise) == 0.5
    clear = np.mean([world.label_for(2.0, 1.0, rng, noise) for _ in range(4000)])
    assert clear == pytest.approx(0.97, abs=0.01)
    close = np.mean([world.label_for(1.06, 1.0, rng, noise) for _ in range(4000)])
    assert close == pytest.approx(0.03 + 0.94 / (1 + np.exp(-1.0)), abs=0.03)
