"""The Stable Diffusion backbone against diffusers itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from alignment.backbones.stable_diffusion import StableDiffusionBackbone, load_pipeline
from alignment.catalogues.backbones import StableDiffusion
from alignment.contracts.evaluation import ModelRef
from alignment.contracts.training import FullFineTune, Lora
from alignment.files.durable import content_digest

# The first test of a session also imports the model libraries and encodes the cache.
pytestmark = pytest.mark.timeout(300)

PARAMS = StableDiffusion(resolution=64)
LORA = Lora(rank=4, alpha=12)


def images_of(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pipeline(
        "a plain red picture", num_inference_steps=3, generator=generator, output_type="pt", height=64, width=64
    ).images


def shaken_lora(base_dir: Path, seed: int = 5) -> tuple[StableDiffusionBackbone, torch.nn.Module]:
    """A denoiser whose adapter is not the identity."""
    backbone = StableDiffusionBackbone(base_dir, PARAMS)
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, LORA, seed=seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in denoiser.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return backbone, denoiser


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(tiny_sd_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        StableDiffusionBackbone(folder, PARAMS)
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        load_pipeline(folder, ModelRef(kind="base", weights_digest="0" * 64), None)


def test_an_unknown_prediction_type_is_refused(tiny_sd_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd_dir, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ValueError, match=r"'sample'.*epsilon, v_prediction"):
        StableDiffusionBackbone(folder, PARAMS)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_and_target_agree_with_diffusers(tiny_sd_dir: Path, tmp_path: Path, prediction_type: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd_dir, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": prediction_type}))
    schedule = StableDiffusionBackbone(folder, PARAMS).schedule
    theirs = DDPMScheduler.from_pretrained(folder / "scheduler")
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps)
    )
    target = noise if prediction_type == "epsilon" else theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), target)


def test_encoders_agree_with_the_pipeline(tiny_sd_dir: Path) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, PARAMS)
    pipeline = load_pipeline(tiny_sd_dir, ModelRef(kind="base", weights_digest="0" * 64), None)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = backbone.encode_images(pixels)
    gaussian = pipeline.vae.encode(pixels).latent_dist
    scale = pipeline.vae.config.scaling_factor
    torch.testing.assert_close(moments.mean_BCHW, gaussian.mean * scale)
    torch.testing.assert_close(moments.std_BCHW, gaussian.std * scale)
    captions = ["a plain red picture", ""]
    states = backbone.encode_captions(captions)["states_LD"]
    theirs, _ = pipeline.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)
    assert states.shape == (2, 12, 16)
    torch.testing.assert_close(states, theirs)


def test_adapter_starts_as_identity_and_switches_off(tiny_sd_dir: Path) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, PARAMS)
    base, fresh = backbone.load_denoiser(), backbone.load_denoiser()
    backbone.attach(fresh, LORA, seed=5)
    _, shaken = shaken_lora(tiny_sd_dir)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = backbone.encode_captions(["a plain red picture", "a blue picture"])

    def prediction(denoiser: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return backbone.predict(denoiser, noisy, torch.tensor([10, 700]), conditioning)

    assert torch.equal(prediction(fresh), prediction(base))
    assert not torch.allclose(prediction(shaken), prediction(base))
    backbone.set_adapter(shaken, enabled=False)
    assert torch.equal(prediction(shaken), prediction(base))
    backbone.set_adapter(shaken, enabled=True)
    trainable = {name for name, weight in shaken.named_parameters() if weight.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_adapter_initialisation_depends_on_its_seed_alone(tiny_sd_dir: Path) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    _, one = shaken_lora(tiny_sd_dir, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    _, same = shaken_lora(tiny_sd_dir, seed=5)
    _, other = shaken_lora(tiny_sd_dir, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_saved_lora_gives_the_same_images_and_bytes(tiny_sd_dir: Path, tmp_path: Path) -> None:
    backbone, denoiser = shaken_lora(tiny_sd_dir)
    for name in ("first", "second"):
        backbone.save_weights(denoiser, LORA, tmp_path / name)
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert content_digest(tmp_path / "first") == content_digest(tmp_path / "second")
    loaded = load_pipeline(tiny_sd_dir, ModelRef(kind="lora", weights_digest="0" * 64), tmp_path / "first")
    base = load_pipeline(tiny_sd_dir, ModelRef(kind="base", weights_digest="0" * 64), None)
    untouched = images_of(base)
    base.unet = denoiser
    trained = images_of(base)
    torch.testing.assert_close(images_of(loaded), trained)
    assert not torch.allclose(trained, untouched, atol=1e-3)


def test_saved_unet_gives_the_same_images_and_contains_no_path(tiny_sd_dir: Path, tmp_path: Path) -> None:
    backbone = StableDiffusionBackbone(tiny_sd_dir, PARAMS)
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, FullFineTune(), seed=0)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.mul_(1.1)
    backbone.save_weights(denoiser, FullFineTune(), tmp_path / "weights")
    assert str(tiny_sd_dir) not in (tmp_path / "weights" / "unet" / "config.json").read_text()
    loaded = load_pipeline(tiny_sd_dir, ModelRef(kind="full", weights_digest="0" * 64), tmp_path / "weights")
    assert isinstance(loaded.unet, UNet2DConditionModel)
    for ours, theirs in zip(denoiser.parameters(), loaded.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_folder_without_its_file_is_named(tiny_sd_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pytorch_lora_weights"):
        load_pipeline(tiny_sd_dir, ModelRef(kind="lora", weights_digest="0" * 64), tmp_path)
    with pytest.raises(ValueError, match=r"unet/config\.json"):
        load_pipeline(tiny_sd_dir, ModelRef(kind="full", weights_digest="0" * 64), tmp_path)
    with pytest.raises(ValueError, match="needs its weights folder"):
        load_pipeline(tiny_sd_dir, ModelRef(kind="full", weights_digest="0" * 64), None)


def test_grid_sampler_draws_with_this_denoiser(tiny_sd_dir: Path) -> None:
    backbone, denoiser = shaken_lora(tiny_sd_dir)
    sampler = backbone.sampler(denoiser, torch.device("cpu"), ["a plain red picture"])
    with torch.no_grad():
        first = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
        again = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
        backbone.set_adapter(denoiser, enabled=False)
        base = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
    assert first.size == (64, 64)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != base.tobytes()
