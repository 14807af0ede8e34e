"""Making the weights: repeatable to the byte, in the standard layout; quality of the committed ones."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

Load = Callable[[str], ModuleType]


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def restored_determinism() -> Iterator[None]:
    """Restore the process-wide torch settings that making the weights changes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(threads)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("restored_determinism")
def test_a_miniature_made_twice_has_the_same_bytes(shapes_module: Load, tmp_path: Path) -> None:
    make_base = shapes_module("make_base")
    budget = ["--steps-scale", "0.001", "--batch-scale", "0.1", "--parts", "autoencoder", "denoiser", "taste_a"]
    for name, seed in (("one", "7"), ("two", "7"), ("other", "8")):
        make_base.main(["--out", str(tmp_path / name), "--seed", seed, *budget])
    one, two, other = (_digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    unet = "base/unet/diffusion_pytorch_model.safetensors"
    assert one[unet] != other[unet]
    assert "judges/taste_a/model.safetensors" in one
    assert not [name for name in one if name.endswith((".bin", ".pt", ".pkl"))]


def test_every_word_of_a_caption_is_one_token(shapes_module: Load) -> None:
    networks, world = shapes_module("networks"), shapes_module("world")
    tokenizer = networks.make_tokenizer()
    for prompt in world.all_prompts()[::11]:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
        assert pieces == [networks.START, *(word + "</w>" for word in prompt.split()), networks.END]
    assert tokenizer.unk_token_id not in tokenizer("zebra crossing").input_ids[1:-1]


@pytest.mark.timeout(60)
def test_standardising_keeps_the_pictures_and_gives_unit_latents(shapes_module: Load) -> None:
    fit, networks = shapes_module("fit_generator"), shapes_module("networks")
    torch.manual_seed(0)
    vae = networks.make_vae().eval()
    pool = fit.render_pool(48, 0, torch.device("cpu"))
    pixels = fit.to_pixels(pool.images_NHWC)
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        fit._standardise(vae, fit.encode_pool(vae, pool))
        after = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    latents = fit.encode_pool(vae, pool)
    variance = latents.mean_NCHW.var(dim=(0, 2, 3)) + (latents.std_NCHW**2).mean(dim=(0, 2, 3))
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(variance, torch.ones(4), atol=1e-3)
    assert torch.allclose(latents.mean_NCHW.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)


def test_a_missing_autoencoder_is_an_error_that_names_the_next_step(shapes_module: Load, tmp_path: Path) -> None:
    make_base = shapes_module("make_base")
    with pytest.raises(ValueError, match="Make the part 'autoencoder' first"):
        make_base.make_denoiser(make_base.parse(["--out", str(tmp_path)]))


def test_committed_weights_are_small_safetensors(shapes_dir: Path) -> None:
    files = [path for part in ("base", "judges") for path in (shapes_dir / part).rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 6
    assert sum(path.stat().st_size for path in weights) <= 12_000_000
    assert {path.suffix for path in files} == {".safetensors", ".json", ".txt"}


@pytest.mark.timeout(120)
def test_the_committed_base_paints_what_the_prompt_says(shapes_dir: Path, shapes_module: Load) -> None:
    sampling, world, measure = (shapes_module(name) for name in ("sampling", "world", "measure"))
    torch.set_num_threads(1)
    pipeline = sampling.load_pipeline(shapes_dir / "base")
    assert isinstance(pipeline, StableDiffusionPipeline)
    prompts = list(world.heldout_prompts()[::10])
    images = sampling.sample(pipeline, prompts, range(len(prompts)))
    facts = [measure.measure(image) for image in images]
    subjects = [world.parse_caption(prompt) for prompt in prompts]
    hues = [measure.hue_distance(fact.foreground, s.colour) for fact, s in zip(facts, subjects, strict=True)]
    assert np.mean(np.asarray(hues) < 15.0) >= 0.85
    shapes = [max(fact.shape_scores, key=fact.shape_scores.__getitem__) for fact in facts]
    assert np.mean([shape == s.shape for shape, s in zip(shapes, subjects, strict=True)]) >= 0.7


@pytest.mark.timeout(60)
@pytest.mark.parametrize("judge", ["taste_a", "taste_b"])
def test_a_taste_judge_prefers_what_the_oracle_prefers(judge: str, shapes_dir: Path, shapes_module: Load) -> None:
    networks, world = shapes_module("networks"), shapes_module("world")
    model = CLIPModel.from_pretrained(shapes_dir / "judges" / judge, use_safetensors=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(shapes_dir / "judges" / judge)
    prompts = list(world.all_prompts()[::6])
    rng = np.random.default_rng(9)
    sides = [world.render(prompts, rng) for _ in range(2)]
    scores = []
    for images in sides:
        with torch.no_grad():
            pixels = networks.judge_pixels(torch.from_numpy(images))
            found = model(input_ids=networks.tokenize(tokenizer, prompts), pixel_values=pixels)
        scores.append((found.image_embeds * found.text_embeds).sum(-1).numpy())
    oracle = [[world.oracle_score(i, p) for i, p in zip(images, prompts, strict=True)] for images in sides]
    agree = np.sign(scores[0] - scores[1]) == np.sign(np.subtract(oracle[0], oracle[1]))
    assert agree.mean() > 0.68


@pytest.mark.timeout(60)
def test_the_autoencoder_starts_as_average_pooling(shapes_module: Load) -> None:
    fit, networks = shapes_module("fit_generator"), shapes_module("networks")
    torch.manual_seed(0)
    vae = networks.make_vae().eval()
    shapes_module("pooling_start").start_as_pooling(vae)
    pixels = fit.to_pixels(fit.render_pool(24, 0, torch.device("cpu")).images_NHWC)
    pooled = torch.nn.functional.avg_pool2d(pixels, 8)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        painted = vae.decode(latents).sample
    assert (latents[:, :3] - pooled).abs().mean() < 0.05
    assert (painted - pixels).abs().mean() < 0.12
