"""The SDXL backbone against transformers' encoders and diffusers' pipeline."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from alignment.backbones.interface import Framing
from alignment.backbones.sdxl import SDXLBackbone, load_pipeline
from alignment.catalogues.backbones import SDXL
from alignment.contracts.data import Encoding
from alignment.contracts.evaluation import ModelRef
from alignment.data.feature_writing import FeatureWriter
from alignment.data.features import CachedFeatures
from alignment.data.pairs import TrainingPairs
from alignment.training.batches import Visit, assemble

# The first test of a session also imports the model libraries.
pytestmark = pytest.mark.timeout(300)

PARAMS = SDXL(resolution=64)
BASE = ModelRef(kind="base", weights_digest="0" * 64)
CAPTIONS = ["a plain red picture", "a blue picture"]


@pytest.mark.parametrize(
    "missing",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
        "text_encoder_2/config.json",
        "tokenizer_2/tokenizer.json",
    ],
)
def test_a_missing_file_is_named(tiny_sdxl_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sdxl_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        SDXLBackbone(folder, PARAMS)
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        load_pipeline(folder, BASE, None)


def test_a_base_of_another_family_is_refused_with_its_missing_files(tiny_sd_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"text_encoder_2/config\.json.*tokenizer_2"):
        SDXLBackbone(tiny_sd_dir, PARAMS)


def test_text_states_are_the_penultimate_layers_and_the_second_projection(tiny_sdxl_dir: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_sdxl_dir / "tokenizer")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=12, return_tensors="pt").input_ids
    with torch.no_grad():
        first = CLIPTextModel.from_pretrained(tiny_sdxl_dir / "text_encoder")(ids, output_hidden_states=True)
        second = CLIPTextModelWithProjection.from_pretrained(tiny_sdxl_dir / "text_encoder_2")(
            ids, output_hidden_states=True
        )
    encoded = SDXLBackbone(tiny_sdxl_dir, PARAMS).encode_captions(CAPTIONS)
    assert encoded["states_LD"].shape == (2, 12, 40)
    torch.testing.assert_close(encoded["states_LD"][..., :16], first.hidden_states[2])
    torch.testing.assert_close(encoded["states_LD"][..., 16:], second.hidden_states[2])
    torch.testing.assert_close(encoded["pooled_D"], second.text_embeds)


@pytest.mark.parametrize("zeros", [True, False])
def test_the_empty_caption_equals_the_negative_prompt_of_guidance(
    tiny_sdxl_dir: Path, tmp_path: Path, zeros: bool
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sdxl_dir, folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "force_zeros_for_empty_prompt": zeros}))
    encoded = SDXLBackbone(folder, PARAMS).encode_captions([CAPTIONS[0], ""])
    theirs = load_pipeline(folder, BASE, None).encode_prompt(CAPTIONS[0], do_classifier_free_guidance=True)
    torch.testing.assert_close(encoded["states_LD"][:1], theirs[0])
    torch.testing.assert_close(encoded["states_LD"][1:], theirs[1])
    torch.testing.assert_close(encoded["pooled_D"][:1], theirs[2])
    torch.testing.assert_close(encoded["pooled_D"][1:], theirs[3])
    assert bool((encoded["states_LD"][1] == 0).all()) is zeros


def test_latents_are_float32_and_inverted_by_the_pipelines_decoder(tiny_sdxl_dir: Path, tmp_path: Path) -> None:
    """Also with a mean and a deviation per channel, as some SDXL models state; and from weights stored in fp16."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_sdxl_dir, folder)
    path = folder / "vae" / "config.json"
    stated = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 4.0]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = SDXLBackbone(tiny_sdxl_dir, PARAMS)
    moments, encoded = plain.encode_images(pixels), SDXLBackbone(folder, PARAMS).encode_images(pixels)
    raw = plain.vae.encode(pixels).latent_dist
    torch.testing.assert_close(moments.mean_BCHW, raw.mean * 0.13025)
    means, deviations = (torch.tensor(stated[name]).reshape(1, 4, 1, 1) for name in stated)
    torch.testing.assert_close(encoded.mean_BCHW * deviations / 0.13025 + means, raw.mean)
    torch.testing.assert_close(encoded.std_BCHW * deviations / 0.13025, raw.std)
    plain.vae.half().save_pretrained(tmp_path / "base" / "vae")
    half = SDXLBackbone(folder, PARAMS)
    assert half.vae.dtype == torch.float32
    torch.testing.assert_close(half.encode_images(pixels).mean_BCHW, moments.mean_BCHW, atol=2e-3, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_and_target_agree_with_diffusers(tiny_sdxl_dir: Path, tmp_path: Path, prediction_type: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sdxl_dir, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": prediction_type}))
    schedule = SDXLBackbone(folder, PARAMS).schedule
    theirs = DDPMScheduler.from_pretrained(folder / "scheduler")
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps)
    )
    target = noise if prediction_type == "epsilon" else theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), target)


def test_a_prediction_is_the_unets_with_the_pipelines_time_ids(tiny_sdxl_dir: Path) -> None:
    backbone = SDXLBackbone(tiny_sdxl_dir, PARAMS)
    pipeline: StableDiffusionXLPipeline = load_pipeline(tiny_sdxl_dir, BASE, None)
    theirs = pipeline._get_add_time_ids(
        (100, 200), (3, 5), (64, 64), dtype=torch.float32, text_encoder_projection_dim=20
    )
    framing = Framing(100, 200, crop_top=3, crop_left=5, height=64, width=64)
    encoded = backbone.image_conditioning([framing, Framing(9, 9, crop_top=0, crop_left=0, height=64, width=64)])
    assert torch.equal(encoded["time_ids_K"][:1], theirs)
    denoiser, text = backbone.load_denoiser(), backbone.encode_captions(CAPTIONS)
    noisy, timesteps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    with torch.no_grad():
        prediction = backbone.predict(denoiser, noisy, timesteps, text | encoded)
        direct = denoiser(
            noisy[:1],
            10,
            encoder_hidden_states=text["states_LD"][:1],
            added_cond_kwargs={"text_embeds": text["pooled_D"][:1], "time_ids": theirs},
        ).sample
        elsewhere = backbone.predict(denoiser, noisy, timesteps, text | {"time_ids_K": encoded["time_ids_K"].flip(0)})
    torch.testing.assert_close(prediction[:1], direct, atol=1e-5, rtol=1e-4)
    assert (elsewhere - prediction).abs().max() > 1e-4


@pytest.mark.slow
def test_each_images_true_size_and_crop_reach_the_batch(
    tiny_sdxl_dir: Path, tiny_snapshot_dir: Path, make_bench: Any, tmp_path: Path
) -> None:
    """A wide and a tall image: sizes before scaling, crops in the scaled image, swapped with the sides."""
    from PIL import Image

    def png(size: tuple[int, int], path: Path) -> bytes:
        Image.new("RGB", size, (200, 30, 30)).save(path)
        return path.read_bytes()

    rows = pq.read_table(tiny_snapshot_dir / "train.parquet").slice(0, 3).to_pydict()
    rows["image_chosen"] = [png((256, 128), tmp_path / "wide.png")] * 3
    rows["image_rejected"] = [png((96, 320), tmp_path / "tall.png")] * 3
    (tmp_path / "snapshot").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "snapshot" / "train.parquet")
    bench = make_bench(tiny_sdxl_dir, PARAMS, tmp_path / "snapshot")
    features = CachedFeatures(bench.inputs / bench.cache.content_digest)
    wide, tall = [128.0, 256.0, 0.0, 32.0, 64.0, 64.0], [320.0, 96.0, 74.0, 0.0, 64.0, 64.0]
    schedule = SDXLBackbone(tiny_sdxl_dir, PARAMS).schedule
    for flip in (False, True):
        batch = assemble([Visit(0, 0), Visit(2, 0)], features, bench.train_spec(flip_labels=flip).recipe, schedule)
        sides = [batch.chosen_captions["time_ids_K"].tolist(), batch.rejected_captions["time_ids_K"].tolist()]
        assert sides == ([[tall] * 2, [wide] * 2] if flip else [[wide] * 2, [tall] * 2])
        assert batch.chosen_captions["pooled_D"].shape == (2, 20)


def test_images_stored_once_keep_their_conditioning(
    make_bench: Any, tiny_sdxl_dir: Path, tiny_mixed_snapshot_dir: Path, tmp_path: Path
) -> None:
    bench = make_bench(tiny_sdxl_dir, PARAMS, tiny_mixed_snapshot_dir)
    plain = CachedFeatures(bench.inputs / bench.cache.content_digest)
    spec = bench.encode_spec.model_copy(update={"encoding": Encoding(distinct_images=True)})
    backbone = SDXLBackbone(tiny_sdxl_dir, PARAMS)
    writer = FeatureWriter(TrainingPairs(tiny_mixed_snapshot_dir), backbone, spec, tmp_path)
    writer.write(0, 1, lambda: None)
    writer.finish()
    single = CachedFeatures(tmp_path)
    for index in (0, 3, 23):
        for side in ("chosen_image", "rejected_image"):
            ours, theirs = getattr(single.pair(index), side), getattr(plain.pair(index), side)
            assert {name: rows.tolist() for name, rows in ours.items()} == {
                name: rows.tolist() for name, rows in theirs.items()
            }
