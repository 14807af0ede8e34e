"""Pairs drawn by a tiny base: the template's side is chosen, both start from one noise, a killed run continues."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.evaluation import Sampler
from alignment.contracts.jobs import Placement
from alignment.contracts.labelling import DrawnPairs, DrawSpec
from alignment.files.durable import content_digest, file_sha256
from alignment.files.images import rgb_image
from alignment.jobs import draw_pairs
from alignment.jobs.outcome import JobPaths, exit_code

pytestmark = pytest.mark.timeout(300)
PROMPTS = "a plain red picture\n\na plain blue picture\na plain green picture\n"


@pytest.fixture(scope="module")
def inputs(tiny_sd_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(tiny_sd_dir, folder / content_digest(tiny_sd_dir))
    (folder / "prompts").write_text(PROMPTS)
    (folder / "prompts").rename(folder / file_sha256(folder / "prompts"))
    return folder


@pytest.fixture
def make_spec(tiny_sd_dir: Path, inputs: Path) -> Callable[..., DrawSpec]:
    prompts = next(path for path in inputs.iterdir() if path.is_file())

    def make(**changes: Any) -> DrawSpec:
        fields: dict[str, Any] = {
            "base_digest": content_digest(tiny_sd_dir),
            "backbone": StableDiffusion(resolution=64),
            "prompts_digest": prompts.name,
            "chosen_template": "{prompt} white",
            "seeds": (1, 2),
            "sampler": Sampler(steps=2, guidance_scale=3.0),
            "source": "white_style",
            "licence": "CC0-1.0",
            "shard_pairs": 4,
        }
        return DrawSpec(**{**fields, **changes})

    return make


def run(inputs: Path, spec: DrawSpec, out: Path, micro_batch: int = 4) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / "spec.json").write_text(spec.model_dump_json())
    (out.parent / "placement.json").write_text(Placement(micro_batch=micro_batch).model_dump_json())
    threads = torch.get_num_threads()
    try:
        return exit_code(
            draw_pairs.main, JobPaths(out.parent / "spec.json", out.parent / "placement.json", inputs, out)
        )
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(out.glob("pairs-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_rows_are_pick_a_pic_under_the_plain_prompt(
    inputs: Path, make_spec: Callable[..., DrawSpec], tmp_path: Path
) -> None:
    spec = make_spec()
    assert run(inputs, spec, tmp_path / "out") == 0
    result = DrawnPairs.model_validate_json((tmp_path / "out" / "result.json").read_text())
    rows = rows_of(tmp_path / "out")
    assert [file.name for file in sorted((tmp_path / "out").glob("pairs-*"))] == [
        "pairs-00000.parquet",
        "pairs-00001.parquet",
    ]
    assert (result.num_pairs, result.num_blank, len(rows)) == (6, 0, 6)
    assert [row["caption"] for row in rows] == [line for line in PROMPTS.split("\n") if line for _ in range(2)]
    assert {(row["label_0"], row["label_1"]) for row in rows} == {(1.0, 0.0), (0.0, 1.0)}
    assert {row["user_id"] for row in rows} == {"template {prompt} white over {prompt}"}
    assert {row["model_0"] for row in rows} == {f"stable_diffusion {spec.base_digest}"}
    assert {(row["source"], row["licence"]) for row in rows} == {("white_style", "CC0-1.0")}


def test_the_chosen_image_is_that_of_the_template_and_shares_its_noise(
    inputs: Path, make_spec: Callable[..., DrawSpec], tmp_path: Path
) -> None:
    """Drawn the other way round, the same two images have the opposite label."""
    straight, turned = make_spec(), make_spec(chosen_template="{prompt}", rejected_template="{prompt} white")
    assert run(inputs, straight, tmp_path / "a" / "out") == run(inputs, turned, tmp_path / "b" / "out") == 0
    for one, other in zip(rows_of(tmp_path / "a" / "out"), rows_of(tmp_path / "b" / "out"), strict=True):
        assert one["jpg_0"] != one["jpg_1"]
        assert (one["jpg_0"], one["jpg_1"]) == (other["jpg_1"], other["jpg_0"])
        assert one["label_0"] == other["label_0"]


def test_a_killed_run_continues_to_the_same_bytes(
    inputs: Path, make_spec: Callable[..., DrawSpec], tmp_path: Path
) -> None:
    assert run(inputs, make_spec(), tmp_path / "whole" / "out") == 0
    out = tmp_path / "killed" / "out"
    out.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "out" / "pairs-00001.parquet", out)
    kept = (out / "pairs-00001.parquet").stat().st_mtime_ns
    assert run(inputs, make_spec(), out) == 0
    assert (out / "pairs-00001.parquet").stat().st_mtime_ns == kept
    assert (out / "result.json").read_bytes() == (tmp_path / "whole" / "out" / "result.json").read_bytes()


def test_blank_images_are_left_out_and_only_blank_images_are_an_error(
    inputs: Path, make_spec: Callable[..., DrawSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def first_is_blank(image: Any) -> bool:
        seen.append(image.tobytes())
        return len(seen) == 1

    monkeypatch.setattr(draw_pairs, "is_blank", first_is_blank)
    assert run(inputs, make_spec(), tmp_path / "one" / "out") == 0
    result = DrawnPairs.model_validate_json((tmp_path / "one" / "out" / "result.json").read_text())
    assert (result.num_pairs, result.num_blank) == (5, 1)
    assert rgb_image(rows_of(tmp_path / "one" / "out")[0]["jpg_0"], "image").size == (64, 64)
    monkeypatch.setattr(draw_pairs, "is_blank", lambda _: True)
    assert run(inputs, make_spec(), tmp_path / "all" / "out") == 2
    assert "All 6 pairs of 'white_style' came out blank" in (tmp_path / "all" / "out" / "failure.json").read_text()
