"""Several models of one base: the images of each drawn alone, text states once, one model in memory at a time."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.backbones.stable_diffusion import StableDiffusionBackbone, load_pipeline
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.contracts.training import FullFineTune, Lora
from alignment.evaluation import model_images
from alignment.evaluation.model_images import ModelImages, PromptStates
from alignment.evaluation.models import load_model
from alignment.evaluation.sampling import image_grid, missing_images, sample_images
from alignment.statistics.prompts import EvalPrompt

pytestmark = pytest.mark.timeout(240)

TINY = StableDiffusion(resolution=64)
SAMPLER = Sampler(steps=3, guidance_scale=2.0)
PROMPTS = [EvalPrompt(i, f"a plain {c} picture", "c") for i, c in enumerate(("red", "green", "blue"))]
GRID = image_grid(PROMPTS, (0, 1))
BASE = ModelRef(kind="base", weights_digest="0" * 64)


@pytest.fixture(scope="module")
def models(tiny_sd_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ModelRef, Path | None]]:
    """The base, an adapter and a full denoiser, with other weights each."""
    found: dict[str, tuple[ModelRef, Path | None]] = {"base": (BASE, None)}
    for kind, tuning in (("lora", Lora(rank=4, alpha=4)), ("full", FullFineTune())):
        backbone = StableDiffusionBackbone(tiny_sd_dir, TINY)
        denoiser = backbone.load_denoiser()
        backbone.attach(denoiser, tuning, seed=1)
        with torch.no_grad():
            for name, weight in denoiser.named_parameters():
                if weight.requires_grad and "bias" not in name:
                    weight.add_(0.05)
        folder = tmp_path_factory.mktemp(kind)
        backbone.save_weights(denoiser, tuning, folder)
        found[kind] = ModelRef(kind=kind, weights_digest="1" * 64), folder
    return found


def images_of(base_dir: Path, sampler: Sampler = SAMPLER) -> ModelImages:
    return ModelImages(TINY, base_dir, sampler, torch.device("cpu"), micro_batch=4)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / key.file_name).read_bytes() for key in GRID]


def test_every_models_images_are_those_of_its_complete_pipeline(tiny_sd_dir: Path, models: Any, tmp_path: Path) -> None:
    images = images_of(tiny_sd_dir)
    for kind, (model, weights_dir) in models.items():
        images.draw(model, weights_dir, GRID, tmp_path / kind)
        complete = load_model(TINY, tiny_sd_dir, model, weights_dir, device=torch.device("cpu"))
        sample_images(complete, GRID, tmp_path / f"{kind}_alone", sampler=SAMPLER, resolution=64, micro_batch=4)
        assert bytes_of(tmp_path / kind) == bytes_of(tmp_path / f"{kind}_alone"), kind
    assert len({bytes_of(tmp_path / kind)[0] for kind in models}) == 3


def test_texts_are_encoded_once_and_one_model_is_in_memory_at_a_time(
    tiny_sd_dir: Path, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    loaded: list[str] = []

    def watched(name: str, load: Any) -> Any:
        def loading(*given: Any, **named: Any) -> Any:
            assert [part for part in alive if part() is not None] == []
            pipeline = load(*given, **named)
            loaded.append(name)
            parts = (pipeline.unet, pipeline.text_encoder)
            alive.extend(weakref.ref(part) for part in parts if part is not None)
            return pipeline

        return loading

    monkeypatch.setattr(model_images, "load_model", watched("model", model_images.load_model))
    monkeypatch.setattr(model_images, "load_texts", watched("texts", model_images.load_texts))
    images = images_of(tiny_sd_dir)
    for kind, (model, weights_dir) in models.items():
        images.draw(model, weights_dir, GRID, tmp_path / kind)
    assert loaded == ["texts", "model", "model", "model"]
    images.draw(BASE, None, [], tmp_path / "none")
    images.draw(BASE, None, image_grid([EvalPrompt(9, "white", "")], (0,)), tmp_path / "new")
    assert loaded[4:] == ["texts", "model"]


def test_a_stopped_drawing_continues_with_the_missing_images(tiny_sd_dir: Path, tmp_path: Path) -> None:
    images_of(tiny_sd_dir).draw(BASE, None, GRID, tmp_path)
    (tmp_path / GRID[5].file_name).unlink()
    kept = (tmp_path / GRID[0].file_name).stat().st_mtime_ns
    images_of(tiny_sd_dir).draw(BASE, None, missing_images(tmp_path, GRID), tmp_path)
    assert missing_images(tmp_path, GRID) == []
    assert (tmp_path / GRID[0].file_name).stat().st_mtime_ns == kept


def test_prompts_are_encoded_in_the_groups_of_their_batches() -> None:
    prompts = ["a", "a", "b", "b", "c", "c"]
    states = PromptStates()
    assert states.groups_to_encode(prompts, 4) == [[""], ["a", "b"], ["c"]]
    assert states.groups_to_encode(prompts, 3) == [[""], ["a", "b"], ["c"]]
    assert states.groups_to_encode(prompts, 1) == [[""], ["a"], ["b"], ["c"]]

    class Letters:
        def encode(self, texts: Any) -> dict[str, torch.Tensor]:
            return {"x": torch.tensor([[float(len(text))] for text in texts])}

    states.encode(Letters(), [["", "a"], ["bb"]])  # type: ignore[arg-type]
    assert states.groups_to_encode(["bb", "c", "a"], 4) == [["c"]]
    assert states.of(["bb", "a", "bb"])["x"].tolist() == [[2], [1], [2]]
    assert states.empty(2)["x"].tolist() == [[0], [0]]


def test_bf16_images_are_nearly_those_of_fp32_and_keep_their_noise(tiny_sd_dir: Path, tmp_path: Path) -> None:
    """A wrong noise or prompt changes most pixels by tens of levels; rounding in the denoiser by a few."""
    rounded = SAMPLER.model_copy(update={"precision": "bf16"})
    images_of(tiny_sd_dir).draw(BASE, None, GRID, tmp_path / "exact")
    images_of(tiny_sd_dir, rounded).draw(BASE, None, GRID, tmp_path / "rounded")
    levels = [
        np.stack([np.asarray(Image.open(tmp_path / name / key.file_name), dtype=int) for key in GRID])
        for name in ("exact", "rounded")
    ]
    difference = np.abs(levels[0] - levels[1])
    unrelated = np.abs(levels[0] - levels[0][::-1]).mean()
    assert 0 < difference.mean() < unrelated / 10


def test_a_pipeline_without_texts_has_no_text_encoder(tiny_sd_dir: Path) -> None:
    bare = load_model(TINY, tiny_sd_dir, BASE, None, device=torch.device("cpu"), with_texts=False)
    assert (bare.text_encoder, bare.tokenizer) == (None, None)
    assert load_pipeline(tiny_sd_dir, BASE, None).text_encoder is not None
