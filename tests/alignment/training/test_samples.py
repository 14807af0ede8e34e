"""The grid is logged once, removed when cut back, and leaves the global generator alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from alignment.contracts.jobs import SampleLine
from alignment.training.samples import SampleGrid


class Painter:
    """Fake of a backbone's sampler: the colour encodes prompt, seed and a draw of the global generator."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, int]] = []
        self.asked: list[tuple[str, ...]] = []

    def sampler(self, denoiser: nn.Module, device: torch.device, prompts: Sequence[str]) -> "Painter":
        self.asked.append(tuple(prompts))
        return self

    def draw(self, prompt: str, seed: int, steps: int, *, guidance_scale: float) -> Image.Image:
        torch.rand(1)
        self.drawn.append((prompt, seed))
        return Image.new("RGB", (4, 4), (len(prompt), seed, steps))


@pytest.fixture
def painter() -> Painter:
    return Painter()


def grid(out: Path, painter: Any) -> SampleGrid:
    return SampleGrid(out, ("a", "bb"), backbone=painter, denoiser=nn.Identity(), device=torch.device("cpu"))


def test_each_image_is_drawn_and_logged_once(tmp_path: Path, painter: Painter) -> None:
    before = torch.random.get_rng_state()
    grid(tmp_path, painter).draw(50)
    grid(tmp_path, painter).draw(50)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert painter.drawn == [("a", 0), ("bb", 1)]
    assert painter.asked == [("a", "bb")], "a complete grid needs no sampler"
    lines = [SampleLine.model_validate_json(x) for x in (tmp_path / "samples/index.jsonl").read_text().splitlines()]
    assert [line.path for line in lines] == ["samples/step_000050/00.png", "samples/step_000050/01.png"]
    assert [line.key for line in lines] == ["samples/00", "samples/01"]
    assert Image.open(tmp_path / lines[1].path).getpixel((0, 0))[:2] == (2, 1)


def test_an_image_that_was_written_but_not_logged_is_drawn_again(tmp_path: Path, painter: Painter) -> None:
    grid(tmp_path, painter).draw(0)
    index = tmp_path / "samples/index.jsonl"
    index.write_text(index.read_text().splitlines()[0] + "\n")
    grid(tmp_path, painter).draw(0)
    assert painter.drawn == [("a", 0), ("bb", 1), ("bb", 1)]
    assert grid(tmp_path, painter).keys() == ("0/samples/00", "0/samples/01")


def test_cut_back_removes_lines_and_images_beyond_the_step(tmp_path: Path, painter: Painter) -> None:
    for step in (0, 4, 8):
        grid(tmp_path, painter).draw(step)
    grid(tmp_path, painter).cut_back(4)
    steps = [json.loads(line)["step"] for line in (tmp_path / "samples/index.jsonl").read_text().splitlines()]
    assert steps == [0, 0, 4, 4]
    assert not (tmp_path / "samples/step_000008/00.png").exists()
    assert (tmp_path / "samples/step_000004/00.png").exists()


@pytest.mark.parametrize("path", ["../notes.txt", "{outside}", "samples/link/notes.txt"])
def test_cut_back_removes_no_file_outside_the_output_folder(tmp_path: Path, painter: Painter, path: str) -> None:
    outside = tmp_path / "notes.txt"
    outside.write_text("keep")
    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "link").symlink_to(tmp_path)
    line = {"step": 8, "key": "samples/00", "path": path.format(outside=outside), "prompt": "p"}
    (out / "samples/index.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="does not stay inside"):
        grid(out, painter).cut_back(4)
    assert outside.read_text() == "keep"
