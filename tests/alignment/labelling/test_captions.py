"""The captioner through transformers' real classes: its captions, and the folders it refuses."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignment.contracts.captions import Captioner
from alignment.data.pairs import decoded
from alignment.labelling.captions import BlipCaptioner

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220), "white": (250, 250, 250)}
IMAGES = [Image.new("RGB", (48, 40), colour) for colour in COLOURS.values()]


def opened(folder: Path, **settings: Any) -> BlipCaptioner:
    return BlipCaptioner(folder, Captioner(weights_digest="0" * 64, **settings), torch.device("cpu"))


@pytest.fixture
def copy(tiny_captioner_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_captioner_dir, tmp_path / "captioner"))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_it_generates_the_captions_it_was_trained_on(tiny_captioner_dir: Path, num_beams: int) -> None:
    said = opened(tiny_captioner_dir, num_beams=num_beams).captions(IMAGES)
    assert said == [f"a {colour} picture" for colour in COLOURS]


def test_an_image_gets_the_same_caption_in_any_batch(tiny_captioner_dir: Path) -> None:
    captioner = opened(tiny_captioner_dir)
    torch.manual_seed(0)
    together = captioner.captions(IMAGES)
    torch.manual_seed(9)
    assert [captioner.captions([image])[0] for image in IMAGES] == together


def test_a_prefix_begins_every_caption_and_the_model_continues_it(tiny_captioner_dir: Path) -> None:
    assert opened(tiny_captioner_dir, prefix="a blue").captions(IMAGES[:1]) == ["a blue picture"]


def test_captions_end_at_the_given_length_beyond_the_prefix(tiny_captioner_dir: Path) -> None:
    assert opened(tiny_captioner_dir, max_new_tokens=2).captions(IMAGES[:1]) == ["a red"]
    assert opened(tiny_captioner_dir, max_new_tokens=1, prefix="a").captions(IMAGES[:1]) == ["a red"]


def test_a_caption_that_adds_nothing_to_the_prefix_is_empty(tiny_captioner_dir: Path) -> None:
    assert opened(tiny_captioner_dir, prefix="a red picture").captions(IMAGES[:1]) == [""]


def test_a_prefix_that_fills_the_model_is_refused(tiny_captioner_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"prefix 'a a a a a a a' fills the captioner's 8 tokens"):
        opened(tiny_captioner_dir, prefix="a a a a a a a")


def test_weights_that_leave_a_part_random_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    gone = "vision_model.post_layernorm.weight"
    del weights[gone]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1 weights of BlipForConditionalGeneration, first {gone}"):
        opened(copy)


def _damage(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


def _other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 24
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spoil", [_damage(b"not safetensors"), _other_width], ids=["damaged", "other width"])
def test_weights_that_do_not_load_are_refused(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    with pytest.raises(ValueError, match=r"cannot be loaded: .* Copy it again"):
        opened(copy)


def test_older_folders_keep_the_processor_in_a_separate_file(copy: Path) -> None:
    processor = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    (copy / "preprocessor_config.json").write_text(json.dumps(processor))
    (copy / "processor_config.json").unlink()
    assert opened(copy).captions(IMAGES)[2] == "a blue picture"


def test_images_with_an_alpha_channel_are_accepted(tiny_captioner_dir: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 20), (220, 30, 30, 255)).save(buffer, format="PNG")

    assert opened(tiny_captioner_dir).captions([decoded(buffer.getvalue(), "x")]) == ["a red picture"]
