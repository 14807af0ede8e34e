"""The README's snippet: load `models:/NAME@champion` and draw, for both kinds of weights, and only from those bytes."""

import io
import uuid
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from alignment.contracts.training import TrainResult
from pipelines.release.promotion.promote import promote
from pipelines.release.registration.candidates import register
from pipelines.store.folders import hash_folder
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS = ["a small red circle on a white background", "a large blue square on a grey background"]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline of 64 x 64 pixels with random weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    text = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=len(vocab) - 2, eos_token_id=len(vocab) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16),
        unet=unet, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_weights(base_dir: Path, weights_dir: Path, kind: Literal["lora", "full"]) -> None:
    """Weights that change the picture, in the layout of a TrainResult."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(base_dir / "unet", use_safetensors=True)
    if kind == "full":
        for parameter in unet.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        unet.save_pretrained(weights_dir / "unet", safe_serialization=True)
        return
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(weights_dir, unet_lora_layers=layers, safe_serialization=True)


def make_champion(world: Any, base_dir: Path, kind: Literal["lora", "full"]) -> str:
    """Register and promote; returns the URI that a user loads."""
    world.base_digest = hash_folder(base_dir)[0]
    section = world.project.base.model_copy(update={"uri": str(base_dir)})
    world.project = world.project.model_copy(update={"base": section})
    folder = world.folder / uuid.uuid4().hex
    write_weights(base_dir, folder / "weights", kind)
    result = TrainResult(
        uri=world.store.uri("jobs", folder.name),
        spec_digest="5" * 64,
        kind=kind,
        weights_digest=hash_folder(folder / "weights")[0],
        base_digest=world.base_digest,
        steps=1,
        num_pairs=1,
        final_metrics={},
    )
    world.store.publish_folder(folder, result.uri, result.model_dump(mode="json"))
    candidate = register(result, Workspace(world.project, world.settings), snapshot=world.snapshot, run_id=world.run_id)
    assert promote(world.decide(candidate, None), Workspace(world.project, world.settings), "tester").moved
    return f"models:/{world.project.name}@champion"


ROOT = Path(__file__).parents[5]


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_champion_draws_through_pyfunc(world: Any, base_dir: Path, kind: Literal["lora", "full"]) -> None:
    import mlflow
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline

    uri = make_champion(world, base_dir, kind)
    mlflow.set_tracking_uri(world.settings.tracking_uri)

    model = mlflow.pyfunc.load_model(uri)
    drawn = [pixels(png) for png in model.predict({"prompt": PROMPTS})]

    assert [image.shape for image in drawn] == [(64, 64, 3)] * 2
    (alone,) = model.predict({"prompt": [PROMPTS[1]]}, params={"seed": 1})
    assert np.abs(pixels(alone).astype(int) - drawn[1]).max() <= 1
    (other_seed,) = model.predict({"prompt": [PROMPTS[0]]}, params={"seed": 9})
    assert (pixels(other_seed) != drawn[0]).any()

    base = DiffusionPipeline.from_pretrained(base_dir, use_safetensors=True)
    base.scheduler = DDIMScheduler.from_config(base.scheduler.config, clip_sample=False)
    sampler = world.project.evaluation.sampler
    without = base(
        PROMPTS[0],
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(0),
    ).images[0]
    assert (np.asarray(without) != drawn[0]).any()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_lora_weights_draw_the_same_through_mlflow_diffusers(world: Any, base_dir: Path) -> None:
    import mlflow
    import torch

    uri = make_champion(world, base_dir, "lora")
    mlflow.set_tracking_uri(world.settings.tracking_uri)
    (served,) = mlflow.pyfunc.load_model(uri).predict(
        {"prompt": PROMPTS[:1]}, params={"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 3}
    )
    pipeline = mlflow.diffusers.load_model(uri).load_pipeline(use_safetensors=True, device="cpu")
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, clip_sample=False)
    generator = torch.Generator("cpu").manual_seed(3)
    image = pipeline(PROMPTS[0], num_inference_steps=4, guidance_scale=2.0, generator=generator).images[0]
    assert np.abs(np.asarray(image).astype(int) - pixels(served)).max() <= 1


def test_another_base_model_or_other_weights_are_refused(world: Any, base_dir: Path, tmp_path: Path) -> None:
    import mlflow
    from mlflow.artifacts import download_artifacts

    uri = make_champion(world, base_dir, "lora")
    mlflow.set_tracking_uri(world.settings.tracking_uri)
    with pytest.raises(ValueError, match=r"The base model should be in /gone.*model_config=\{'base_model'"):
        mlflow.pyfunc.load_model(uri, model_config={"base_model": "/gone"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"The base model in .* has digest"):
        mlflow.pyfunc.load_model(uri, model_config={"base_model": str(tmp_path / "other")})
    served = Path(download_artifacts(uri, dst_path=str(tmp_path / "served")))
    (weights,) = served.glob("artifacts/weights/*")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"The registered weights in .* Do not use this version"):
        mlflow.pyfunc.load_model(str(served))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_written_transformer_is_loaded_by_the_class_that_the_base_names(tmp_path: Path) -> None:
    import json
    import runpy

    import torch
    from diffusers import SD3Transformer2DModel

    written = SD3Transformer2DModel(
        sample_size=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8,
        caption_projection_dim=8, pooled_projection_dim=8, pos_embed_max_size=4,
    )  # fmt: skip
    written.save_pretrained(tmp_path / "weights" / "transformer")
    (tmp_path / "base").mkdir()
    index = {"transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    load = runpy.run_path(str(ROOT / "pipelines/release/registration/served/pyfunc_model.py"))["written_denoiser"]
    parts = load(tmp_path / "base", tmp_path / "weights")
    assert list(parts) == ["transformer"]
    assert isinstance(parts["transformer"], SD3Transformer2DModel)
    for ours, theirs in zip(written.parameters(), parts["transformer"].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_with_a_link_to_a_folder_are_refused(tmp_path: Path) -> None:
    """The digest covers no file behind such a link, but the denoiser would be loaded from there."""
    import runpy

    weights = tmp_path / "weights"
    (weights / "unet").mkdir(parents=True)
    (weights / "unet" / "w.safetensors").write_text("w")
    digest = hash_folder(weights)[0]
    check_folder = runpy.run_path(str(ROOT / "pipelines/release/registration/served/pyfunc_model.py"))["check_folder"]
    check_folder(weights, digest, "The registered weights", "Do not use this version.")
    (tmp_path / "other").mkdir()
    (weights / "transformer").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="transformer, a symbolic link to a folder"):
        check_folder(weights, digest, "The registered weights", "Do not use this version.")
