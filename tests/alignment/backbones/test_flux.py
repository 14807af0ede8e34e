"""The FLUX backbone against transformers' encoders and diffusers' pipeline."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from alignment.backbones.flux import FluxBackbone, _pack, _positions, _unpack, load_pipeline
from alignment.catalogues.backbones import Flux
from alignment.contracts.evaluation import ModelRef

# The first test of a session also imports the model libraries.
pytestmark = pytest.mark.timeout(300)

PARAMS = Flux(resolution=64)
BASE = ModelRef(kind="base", weights_digest="0" * 64)
CAPTIONS = ["a plain red picture", "a blue picture"]


@pytest.mark.parametrize(
    "missing", ["transformer/config.json", "text_encoder_2/model.safetensors", "tokenizer_2/tokenizer.json"]
)
def test_a_missing_file_is_named(tiny_flux_dir: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_flux_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        FluxBackbone(folder, PARAMS)
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        load_pipeline(folder, BASE, None)


def test_packing_equals_the_pipelines_and_can_be_inverted() -> None:
    latents = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    tokens = _pack(latents)
    assert tokens.shape == (2, 6, 12)
    assert tokens[0, 1, :4].tolist() == [2.0, 3.0, 8.0, 9.0], "second patch of the first row, first channel"
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 3, 4, 6))
    assert torch.equal(_unpack(tokens, 4, 6), latents)
    expected = FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    assert torch.equal(_positions(2, 3, torch.device("cpu"), torch.float32), expected)


def test_text_states_come_from_t5_and_the_pooled_state_from_clip(tiny_flux_dir: Path) -> None:
    encoded = FluxBackbone(tiny_flux_dir, PARAMS).encode_captions(CAPTIONS)
    ids = CLIPTokenizer.from_pretrained(tiny_flux_dir / "tokenizer")(
        CAPTIONS, padding="max_length", max_length=12, return_tensors="pt"
    ).input_ids
    t5_ids = T5TokenizerFast.from_pretrained(tiny_flux_dir / "tokenizer_2")(
        CAPTIONS, padding="max_length", max_length=512, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        pooled = CLIPTextModel.from_pretrained(tiny_flux_dir / "text_encoder")(ids).pooler_output
        states = T5EncoderModel.from_pretrained(tiny_flux_dir / "text_encoder_2")(t5_ids)[0]
    assert encoded["states_LD"].shape == (2, 512, 32)
    torch.testing.assert_close(encoded["states_LD"].float(), states, atol=2**-7, rtol=2**-7)
    torch.testing.assert_close(encoded["pooled_D"], pooled)


def test_inputs_and_prediction_equal_those_of_the_pipelines_transformer_call(
    tiny_flux_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor that the pipeline passes in its first step for the same latents and caption, and the prediction."""
    backbone, pipeline = FluxBackbone(tiny_flux_dir, PARAMS), load_pipeline(tiny_flux_dir, BASE, None)
    calls: list[dict[str, Tensor]] = []
    predictions: list[Tensor] = []
    forward = FluxTransformer2DModel.forward

    def recorded(self: nn.Module, **inputs: Tensor) -> tuple[Tensor]:
        calls.append(inputs)
        predictions.append(forward(self, **inputs)[0])
        return (predictions[-1],)

    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    encoded = backbone.encode_captions(CAPTIONS[:1])
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(FluxTransformer2DModel, "forward", recorded)
        pipeline(CAPTIONS[0], latents=_pack(noise), height=64, width=64, num_inference_steps=1, output_type="latent")
        start = calls[0]["timestep"] * 1000
        prediction = backbone.predict(backbone.load_denoiser(), noise, start, encoded)
    for name in ("hidden_states", "timestep", "guidance", "pooled_projections", "txt_ids", "img_ids"):
        torch.testing.assert_close(calls[1][name], calls[0][name], msg=name)
    torch.testing.assert_close(_pack(prediction), predictions[0], atol=1e-2, rtol=1e-2)


def test_guidance_reaches_a_distilled_denoiser_and_no_other(tiny_flux_dir: Path, tmp_path: Path) -> None:
    encoded = FluxBackbone(tiny_flux_dir, PARAMS).encode_captions(CAPTIONS[:1])
    noisy, timesteps = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])

    def prediction(folder: Path, guidance: float) -> Tensor:
        backbone = FluxBackbone(folder, Flux(resolution=64, guidance=guidance))
        with torch.no_grad():
            return backbone.predict(backbone.load_denoiser(), noisy, timesteps, encoded)

    assert not torch.equal(prediction(tiny_flux_dir, 1.0), prediction(tiny_flux_dir, 3.5))
    folder = tmp_path / "base"
    shutil.copytree(tiny_flux_dir, folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    FluxTransformer2DModel.from_config({**config, "guidance_embeds": False}).save_pretrained(folder / "transformer")
    assert torch.equal(prediction(folder, 1.0), prediction(folder, 3.5))


def test_the_shift_grows_with_the_image(tiny_flux_dir: Path) -> None:
    assert FluxBackbone(tiny_flux_dir, Flux(resolution=1024)).schedule.shift == pytest.approx(math.exp(1.15))
    assert FluxBackbone(tiny_flux_dir, Flux(resolution=256)).schedule.shift == pytest.approx(math.exp(0.5))
