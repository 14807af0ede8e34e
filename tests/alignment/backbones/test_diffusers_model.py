"""Every family: adapters, training through the job, written weights loaded by diffusers' pipeline."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from accelerate import Accelerator

from alignment.backbones import diffusers_model
from alignment.catalogues.backbones import SDXL, BackboneParams, Flux, StableDiffusion3
from alignment.catalogues.lookup import resolve
from alignment.catalogues.objectives import PRDP
from alignment.catalogues.optimisers import AdamW
from alignment.contracts.evaluation import ModelRef
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Lora, Recipe
from alignment.data.features import CachedFeatures
from alignment.files.durable import content_digest
from alignment.training.batches import Visit, assemble
from alignment.training.offline import _noise_pairs
from alignment.training.online import OnlineUpdate
from alignment.training.update import Workbench

# The first test of a session also imports the model libraries and encodes the cache.
pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

LORA = Lora(rank=4, alpha=12)
STEPS = 20
RATES = {"unet": {"lora": 3e-2, "full": 1e-3}, "transformer": {"lora": 1e-1, "full": 1e-2}}
TUNINGS = {"lora": {"kind": "lora", "rank": 4, "alpha": 4}, "full": {"kind": "full"}}


@dataclass(frozen=True)
class Case:
    """A family, its tiny base and the part that is trained."""

    base_dir: Path
    params: BackboneParams
    part: str

    @property
    def module(self) -> str:
        return self.params.implementation.partition(":")[0]

    def backbone(self) -> Any:
        return resolve(self.params.implementation)(self.base_dir, self.params)

    def load(self, kind: Any, weights_dir: Path | None) -> Any:
        model = ModelRef(kind=kind, weights_digest="0" * 64)
        return resolve(f"{self.module}:load_pipeline")(self.base_dir, model, weights_dir)


CASES = {
    "sdxl": (SDXL(resolution=64), "unet"),
    "sd3": (StableDiffusion3(resolution=64), "transformer"),
    "flux": (Flux(resolution=64), "transformer"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.getfixturevalue(f"tiny_{request.param}_dir"), *CASES[request.param])


@pytest.fixture(scope="module")
def family_bench(case: Case, make_bench: Any) -> Any:
    return make_bench(case.base_dir, case.params)


def images_of(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a plain red picture", num_inference_steps=3, generator=generator, output_type="pt", height=64, width=64
    ).images


def shaken_lora(case: Case, tuning: Lora = LORA) -> tuple[Any, torch.nn.Module]:
    """A denoiser whose adapter is not the identity."""
    backbone = case.backbone()
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, tuning, seed=5)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in denoiser.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    return backbone, denoiser


def test_weights_folder_without_its_file_is_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pytorch_lora_weights"):
        case.load("lora", tmp_path)
    with pytest.raises(ValueError, match=rf"{case.part}/config\.json"):
        case.load("full", tmp_path)
    with pytest.raises(ValueError, match="needs its weights folder"):
        case.load("full", None)


def test_adapters_that_match_no_module_are_refused(case: Case) -> None:
    backbone = case.backbone()
    with pytest.raises(ValueError, match="to_nowhere"):
        backbone.attach(backbone.load_denoiser(), Lora(target_modules=("to_nowhere",)), seed=0)


def test_saved_lora_gives_the_same_images_and_bytes(case: Case, tmp_path: Path) -> None:
    backbone, denoiser = shaken_lora(case)
    for name in ("first", "second"):
        backbone.save_weights(denoiser, LORA, tmp_path / name)
    assert content_digest(tmp_path / "first") == content_digest(tmp_path / "second")
    loaded, base = case.load("lora", tmp_path / "first"), case.load("base", None)
    untouched = images_of(base)
    setattr(base, case.part, denoiser)
    trained = images_of(base)
    torch.testing.assert_close(images_of(loaded), trained)
    assert not torch.allclose(trained, untouched, atol=1e-3)


def test_adapters_beside_attention_are_read_with_those_of_attention(case: Case, tmp_path: Path) -> None:
    tuning = LORA.model_copy(update={"target_modules": (*LORA.target_modules, "net.2", "proj_in")})
    backbone, denoiser = shaken_lora(case, tuning)
    backbone.save_weights(denoiser, tuning, tmp_path)
    loaded, base = case.load("lora", tmp_path), case.load("base", None)
    setattr(base, case.part, denoiser)
    torch.testing.assert_close(images_of(loaded), images_of(base))


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # FLUX's float32 norm of bf16: not fused
def test_every_trainable_weight_gets_a_gradient_from_the_prediction(
    case: Case, family_bench: Any, kind: str, precision: torch.dtype
) -> None:
    """Also under autocast. With several processes a weight without gradient would block the run forever."""
    backbone, spec = case.backbone(), family_bench.train_spec(tuning=TUNINGS[kind], steps=1)
    features = CachedFeatures(family_bench.inputs / family_bench.cache.content_digest)
    batch = assemble([Visit(0, 0), Visit(3, 0)], features, spec.recipe, backbone.schedule)
    noised = _noise_pairs(batch, backbone.schedule)
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, spec.recipe.tuning, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        prediction = backbone.predict(denoiser, noised.noisy_BCHW, noised.timesteps_B, noised.conditioning)
    assert prediction.shape == noised.target_BCHW.shape
    (prediction.float() - noised.target_BCHW).square().mean().backward()
    trained = {name: weight for name, weight in denoiser.named_parameters() if weight.requires_grad}
    assert trained
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    assert all(bool(weight.grad.isfinite().all()) for weight in trained.values())


def test_latents_have_the_stated_shape_and_decode_as_in_the_pipeline(case: Case) -> None:
    backbone, vae = case.backbone(), case.load("base", None).vae
    latents = backbone.encode_images(torch.zeros(1, 3, 64, 64)).mean_BCHW
    assert backbone.latent_shape == tuple(latents.shape[1:])
    raw = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    with torch.no_grad():
        theirs = (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(backbone.decode_latents(latents), theirs, atol=1e-5, rtol=1e-4)


def test_large_images_go_through_the_vae_a_few_at_a_time_with_the_same_latents(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = case.backbone()
    large = resolve(case.params.implementation)(case.base_dir, case.params.model_copy(update={"resolution": 1024}))
    passes: list[tuple[str, int]] = []
    for name in ("encode", "decode"):
        honest = getattr(large.vae, name)
        monkeypatch.setattr(
            large.vae,
            name,
            lambda x, name=name, honest=honest, **named: passes.append((name, len(x))) or honest(x, **named),
        )
    together, apart = small.encode_images(pixels), large.encode_images(pixels)
    torch.testing.assert_close(apart.mean_BCHW, together.mean_BCHW, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(apart.std_BCHW, together.std_BCHW, atol=1e-5, rtol=1e-4)
    assert together.mean_BCHW.dtype == torch.float32
    latents = together.mean_BCHW[:2]
    torch.testing.assert_close(large.decode_latents(latents), small.decode_latents(latents), atol=1e-5, rtol=1e-4)
    assert passes == [("encode", 4), ("encode", 2), ("decode", 1), ("decode", 1)]


def test_a_grid_is_that_of_the_complete_pipeline_and_encodes_each_prompt_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, encoded = ["a plain red picture", "a blue picture"], list[str]()
    complete, backbone = case.load("base", None), case.backbone()
    load = diffusers_model.load_texts

    def watched(*given: Any) -> Any:
        pipeline = load(*given)
        encode = pipeline.encode_prompt
        pipeline.encode_prompt = lambda texts, *rest, **named: encoded.extend(texts) or encode(texts, *rest, **named)
        return pipeline

    monkeypatch.setattr(diffusers_model, "load_texts", watched)
    denoiser = backbone.load_denoiser()
    for _ in range(2):
        sampler = backbone.sampler(denoiser, torch.device("cpu"), prompts)
        assert sampler.pipeline.text_encoder is None
        for seed, prompt in enumerate(prompts):
            with torch.no_grad():
                ours = sampler.draw(prompt, seed, 2, guidance_scale=3.0)
                theirs = complete(
                    prompt,
                    height=64,
                    width=64,
                    num_inference_steps=2,
                    guidance_scale=3.0,
                    generator=torch.Generator().manual_seed(seed),
                ).images[0]
            assert ours.tobytes() == theirs.tobytes()
    assert encoded == ["", *prompts]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of a norm that is slower, not wrong
def test_a_denoiser_with_matrices_in_bf16_draws_nearly_the_same_grid(case: Case) -> None:
    backbone, denoiser = case.backbone(), case.backbone().load_denoiser()
    drawn = []
    for half in (False, True):
        for weight in denoiser.parameters():
            weight.data = weight.data.bfloat16() if half and weight.ndim > 1 else weight.data
        sampler = backbone.sampler(denoiser, torch.device("cpu"), ["a plain red picture"])
        with torch.no_grad():
            image = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
        drawn.append(torch.tensor(list(image.tobytes()), dtype=torch.float32))
    assert 0 < (drawn[0] - drawn[1]).abs().mean() < 6, "of 255 levels"


def test_grid_sampler_draws_with_this_denoiser(case: Case) -> None:
    backbone, denoiser = shaken_lora(case)
    sampler = backbone.sampler(denoiser, torch.device("cpu"), ["a plain red picture"])
    with torch.no_grad():
        first = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
        backbone.set_adapter(denoiser, enabled=False)
        base = sampler.draw("a plain red picture", 1, 2, guidance_scale=3.0)
    assert first.size == (64, 64)
    assert first.tobytes() != base.tobytes()


def train(bench: Any, out: Path, **changes: Any) -> list[dict[str, float]]:
    """Metrics of every step."""
    assert bench.train(out, bench.train_spec(**changes), Placement(micro_batch=8)) == 0
    return [json.loads(line)["metrics"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_preference_training_starts_at_the_reference(family_bench: Any, tmp_path: Path, kind: str) -> None:
    first, second = train(family_bench, tmp_path / "out", tuning=TUNINGS[kind], steps=2)
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert second["chosen_error_minus_reference"] != 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_twenty_steps_learn_and_the_weights_load_through_diffusers(
    case: Case, family_bench: Any, tmp_path: Path, kind: str
) -> None:
    errors = {}
    for name, rate in (("out", RATES[case.part][kind]), ("idle", 1e-12)):
        lines = train(
            family_bench,
            tmp_path / name,
            objective={"name": "sft"},
            tuning=TUNINGS[kind],
            optimiser={"learning_rate": rate, "warmup_steps": 2},
            steps=STEPS,
        )
        errors[name] = sum(line["chosen_error"] for line in lines[-5:])
    assert errors["out"] < 0.97 * errors["idle"], "on the same images, noise and timesteps"

    weights = tmp_path / "out" / "weights"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(case.base_dir, **replacement(case, kind, weights))
    if kind == "lora":
        pipeline.load_lora_weights(weights)
    base = case.load("base", None)
    pipeline.scheduler = base.scheduler
    trained = images_of(pipeline)
    torch.testing.assert_close(images_of(case.load(kind, weights)), trained)
    assert trained.isfinite().all()
    assert (trained - images_of(base)).abs().max() > 1e-3


def replacement(case: Case, kind: str, weights: Path) -> dict[str, Any]:
    """Load the written denoiser with the class that the base's model_index.json names; nothing for an adapter."""
    if kind == "lora":
        return {}
    name = json.loads((case.base_dir / "model_index.json").read_text())[case.part][1]
    return {case.part: getattr(diffusers, name).from_pretrained(weights / case.part)}


def test_full_fine_tune_weights_contain_no_path(case: Case, tmp_path: Path) -> None:
    backbone = case.backbone()
    backbone.save_weights(backbone.load_denoiser(), FullFineTune(), tmp_path)
    assert str(case.base_dir) not in (tmp_path / case.part / "config.json").read_text()


def test_decoding_inverts_the_unit_of_the_latents(case: Case) -> None:
    backbone = case.backbone()
    pixels_BCHW = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents_BCHW = backbone.encode_images(pixels_BCHW).mean_BCHW
    assert latents_BCHW.shape[1:] == backbone.latent_shape
    with torch.no_grad():
        raw = backbone.vae.decode(backbone.vae.encode(pixels_BCHW).latent_dist.mean, return_dict=False)[0]
    torch.testing.assert_close(backbone.decode_latents(latents_BCHW), (raw / 2 + 0.5).clamp(0, 1))


def online_update(case: Case) -> Any:
    """An online update: one prompt, three images of four steps; the reward of an image is its index."""
    recipe = Recipe(
        name="tiny",
        backbone=case.params,  # type: ignore[arg-type]
        objective=PRDP(reward="r", beta=1.0, clip_range=1e-3, images_per_prompt=3, sampler_steps=4),
        tuning=LORA,
        optimiser=AdamW(learning_rate=1e-3),
        global_batch=1,
        steps=1,
        seed=0,
    )
    backbone = case.backbone()
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, LORA, seed=5)
    bench = Workbench(recipe, Placement(), backbone, Accelerator(cpu=True), denoiser=denoiser, wrapped=denoiser)
    scorer = SimpleNamespace(score=lambda images, prompts: torch.arange(len(images)).float())
    return OnlineUpdate(["a plain red picture"], scorer, "r", bench)  # type: ignore[arg-type]


def test_online_training_supports_sdxl_and_refuses_flow_matching(case: Case) -> None:
    if case.part == "transformer":
        with pytest.raises(ValueError, match="needs the Gaussian steps of a variance-preserving schedule"):
            online_update(case)
        return
    update = online_update(case)
    sums = update(0)
    assert sums["reward"].item() == 1.0
    assert sums["margin"].item() == 0.0
    gradients = [w.grad for w in update._bench.denoiser.parameters() if w.grad is not None]
    assert gradients
    assert any(bool(gradient.any()) for gradient in gradients)
