"""The captioner of the shapes world: visible content of an image, accuracy counts, and the committed weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from alignment.contracts.captions import Captioner
from alignment.data.pairs import decoded
from alignment.labelling.captions import BlipCaptioner

Load = Callable[[str], ModuleType]
NUM_IMAGES = 64


@pytest.fixture
def restored_determinism() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_the_subject_seen_in_a_rendering_is_the_rendered_one(shapes_module: Load) -> None:
    maker, world, drawing = (shapes_module(name) for name in ("make_captioner", "world", "drawing"))
    subjects = world.subjects()[::7]
    images = drawing.draw([drawing.Scene(subject=subject) for subject in subjects])
    right = [maker.seen_subject(image) == subject for image, subject in zip(images, subjects, strict=True)]
    assert np.mean(right) > 0.97


def test_nothing_is_seen_on_an_empty_or_colourless_image_and_it_is_left_out(shapes_module: Load) -> None:
    maker, world = shapes_module("make_captioner"), shapes_module("world")
    blank = np.full((64, 64, 3), 200, np.uint8)
    grey = blank.copy()
    grey[20:40, 20:40] = 90
    shown = world.render(["a large red square on a white background"], np.random.default_rng(0))[0]
    assert maker.seen_subject(blank) is None
    assert maker.seen_subject(grey) is None
    found = maker.seen(np.stack([blank, shown, grey]))
    assert [subject.caption for subject in found.subjects] == ["a large red square on a white background"]
    assert np.array_equal(found.images_NHWC, shown[None])


def test_accuracy_counts_parts_and_complete_captions_and_no_other_text(shapes_module: Load) -> None:
    maker, drawing = shapes_module("make_captioner"), shapes_module("drawing")
    subject = drawing.Subject("small", "red", "ring", "navy")
    texts = [
        "a small red ring on a navy background",
        "a small red circle on a white background",
        "a small red ring",
        "a large blue ring on a navy background",
    ]
    expected = {"size": 0.5, "colour": 0.5, "shape": 0.5, "background": 0.5, "all": 0.25}
    assert maker.accuracy(texts, [subject] * 4) == expected


def test_moving_repeats_the_edge_and_keeps_the_shape(shapes_module: Load) -> None:
    maker = shapes_module("make_captioner")
    images = np.full((2, 64, 64, 3), 250, np.uint8)
    images[:, 30:40, 20:30] = (220, 30, 30)
    moves = {
        maker.moved(torch.from_numpy(images), torch.Generator().manual_seed(seed)).numpy().tobytes()
        for seed in range(8)
    }
    assert len(moves) > 4
    after = maker.moved(torch.from_numpy(images), torch.Generator().manual_seed(0))
    assert after.shape == (2, 64, 64, 3)
    assert int((after[..., 1] < 100).sum()) == 2 * 100


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("restored_determinism")
def test_a_miniature_made_twice_has_the_same_bytes(shapes_module: Load, tmp_path: Path) -> None:
    maker = shapes_module("make_captioner")
    torch.use_deterministic_algorithms(True)
    weights = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        tokenizer = maker.make_caption_tokenizer()
        budget = maker.Budget(num_renderings=24, steps=3, batch=8)
        model = maker.fit_captioner(maker.rendered(24, 5), budget, tokenizer=tokenizer, seed=seed)
        maker.save_captioner(model, tokenizer, tmp_path / name)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def is_truncated(content: bytes) -> bool:
    """The shards contain a few faulty images on purpose."""
    return not content.rstrip().endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))


@pytest.mark.timeout(240)
def test_the_committed_captioner_describes_the_images_of_the_pairs(shapes_module: Load, shapes_dir: Path) -> None:
    """On samples of the base that it was not trained on, through the class that the caption job uses."""
    maker = shapes_module("make_captioner")
    folder = shapes_dir / "captioner"
    assert (folder / "model.safetensors").stat().st_size < 1_500_000
    captioner = BlipCaptioner(folder, Captioner(weights_digest="0" * 64), torch.device("cpu"))
    shard = sorted((shapes_dir / "pairs").glob("*.parquet"))[0]
    encoded = pq.read_table(shard, columns=["jpg_0"])["jpg_0"].to_pylist()
    images = [decoded(content, "image") for content in encoded[:NUM_IMAGES] if not is_truncated(content)]
    seen = [maker.seen_subject(np.asarray(image)) for image in images]
    texts = captioner.captions(images)
    shown = [(text, subject) for text, subject in zip(texts, seen, strict=True) if subject is not None]
    found = maker.accuracy([text for text, _ in shown], [subject for _, subject in shown])
    assert min(found["colour"], found["background"]) > 0.95
    assert found["size"] > 0.9
    assert found["shape"] > 0.25, "one in six would be chance"
