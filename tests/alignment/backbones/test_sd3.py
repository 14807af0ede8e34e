"""The SD3 backbone against transformers' encoders and diffusers' pipeline."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from alignment.backbones.sd3 import StableDiffusion3Backbone, load_pipeline
from alignment.catalogues.backbones import StableDiffusion3
from alignment.contracts.evaluation import ModelRef

# The first test of a session also imports the model libraries.
pytestmark = pytest.mark.timeout(300)

PARAMS = StableDiffusion3(resolution=64)
BASE = ModelRef(kind="base", weights_digest="0" * 64)
CAPTIONS = ["a plain red picture", "a blue picture"]
ROUNDED = {"atol": 2**-7, "rtol": 2**-7}
"""Tolerances of states stored in bfloat16."""


@pytest.fixture(scope="module")
def without_t5(tiny_sd3_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base saved without its third encoder, as diffusers allows."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_sd3_dir, text_encoder_3=None, tokenizer_3=None)
    folder = tmp_path_factory.mktemp("without_t5") / "base"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    "missing",
    [
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
        "text_encoder_3/model.safetensors",
        "tokenizer_3/tokenizer.json",
    ],
)
def test_a_missing_file_is_named(tiny_sd3_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd3_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        StableDiffusion3Backbone(folder, PARAMS)
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        load_pipeline(folder, BASE, None)


def test_text_states_are_both_clips_side_by_side_then_t5(tiny_sd3_dir: Path) -> None:
    encoded = StableDiffusion3Backbone(tiny_sd3_dir, PARAMS).encode_captions(CAPTIONS)
    ids = CLIPTokenizer.from_pretrained(tiny_sd3_dir / "tokenizer")(
        CAPTIONS, padding="max_length", max_length=12, return_tensors="pt"
    ).input_ids
    t5_ids = T5TokenizerFast.from_pretrained(tiny_sd3_dir / "tokenizer_3")(
        CAPTIONS, padding="max_length", max_length=256, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        clips = [
            CLIPTextModelWithProjection.from_pretrained(tiny_sd3_dir / name)(ids, output_hidden_states=True)
            for name in ("text_encoder", "text_encoder_2")
        ]
        t5_states = T5EncoderModel.from_pretrained(tiny_sd3_dir / "text_encoder_3")(t5_ids)[0]
    states = encoded["states_LD"].float()
    assert states.shape == (2, 12 + 256, 32)
    torch.testing.assert_close(states[:, :12, :16], clips[0].hidden_states[2], **ROUNDED)
    torch.testing.assert_close(states[:, :12, 16:28], clips[1].hidden_states[2], **ROUNDED)
    assert bool((states[:, :12, 28:] == 0).all())
    torch.testing.assert_close(states[:, 12:], t5_states, **ROUNDED)
    torch.testing.assert_close(encoded["pooled_D"], torch.cat([clip.text_embeds for clip in clips], dim=1))


def test_a_base_without_t5_has_zeros_in_its_place(tiny_sd3_dir: Path, without_t5: Path) -> None:
    encoded = StableDiffusion3Backbone(without_t5, PARAMS).encode_captions(CAPTIONS)
    full = StableDiffusion3Backbone(tiny_sd3_dir, PARAMS).encode_captions(CAPTIONS)
    assert torch.equal(encoded["states_LD"][:, :12], full["states_LD"][:, :12])
    assert encoded["states_LD"].shape == full["states_LD"].shape
    assert bool((encoded["states_LD"][:, 12:] == 0).all())
    assert torch.equal(encoded["pooled_D"], full["pooled_D"])
    pipeline = load_pipeline(without_t5, BASE, None)
    theirs, *_ = pipeline.encode_prompt(CAPTIONS, None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(encoded["states_LD"].float(), theirs, **ROUNDED)


def test_latents_are_inverted_by_the_pipelines_decoder(tiny_sd3_dir: Path) -> None:
    """The pipeline decodes latents / scaling_factor + shift_factor."""
    backbone = StableDiffusion3Backbone(tiny_sd3_dir, PARAMS)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments, raw = backbone.encode_images(pixels), backbone.vae.encode(pixels).latent_dist
    torch.testing.assert_close(moments.mean_BCHW / 1.5305 + 0.0609, raw.mean)
    torch.testing.assert_close(moments.std_BCHW / 1.5305, raw.std)


def test_a_prediction_is_the_transformers_and_points_from_image_to_noise(tiny_sd3_dir: Path) -> None:
    backbone = StableDiffusion3Backbone(tiny_sd3_dir, PARAMS)
    denoiser, encoded = backbone.load_denoiser(), backbone.encode_captions(CAPTIONS)
    latents, noise = torch.randn(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([250.0, 700.0])
    noisy = backbone.schedule.add_noise(latents, noise, timesteps)
    with torch.no_grad():
        prediction = backbone.predict(denoiser, noisy, timesteps, encoded)
        direct = denoiser(
            noisy[:1],
            timestep=timesteps[:1],
            encoder_hidden_states=encoded["states_LD"][:1].float(),
            pooled_projections=encoded["pooled_D"][:1],
        ).sample
    torch.testing.assert_close(prediction[:1], direct, atol=1e-5, rtol=1e-4)
    # One step of the base's scheduler along the target, from the share of noise to none, must return the image.
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tiny_sd3_dir / "scheduler")
    scheduler.set_timesteps(sigmas=[0.5])
    start = scheduler.timesteps[:1]
    noisy = backbone.schedule.add_noise(latents[:1], noise[:1], start)
    target = backbone.schedule.target(latents[:1], noise[:1], start)
    torch.testing.assert_close(scheduler.step(target, start[0], noisy).prev_sample, latents[:1], atol=1e-5, rtol=1e-4)


def test_another_scheduler_is_refused(tiny_sd3_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd3_dir, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "DDIMScheduler"}))
    with pytest.raises(ValueError, match=r"DDIMScheduler.*FlowMatchEulerDiscreteScheduler"):
        StableDiffusion3Backbone(folder, PARAMS)
