"""Every family on latents that are not square: conditioning, and predictions equal to those of diffusers' classes."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from alignment.catalogues.backbones import SDXL, BackboneParams, Flux, StableDiffusion, StableDiffusion3
from alignment.catalogues.images import AspectBuckets
from alignment.catalogues.lookup import resolve
from alignment.contracts.jobs import Placement
from alignment.data.features import CachedFeatures
from alignment.training.batches import PairBatch, Visit, assemble
from alignment.training.seeding import stream

# The first test of a session also imports the model libraries and encodes the cache.
pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

CASES: dict[str, BackboneParams] = {
    "sd": StableDiffusion(resolution=64),
    "sdxl": SDXL(resolution=64),
    "sd3": StableDiffusion3(resolution=64),
    "flux": Flux(resolution=64),
}


@dataclass(frozen=True)
class Case:
    """A family with a cache of wide, tall and square pairs."""

    name: str
    base_dir: Path
    bench: Any

    @property
    def features(self) -> CachedFeatures:
        return CachedFeatures(self.bench.inputs / self.bench.cache.content_digest)

    def backbone(self) -> Any:
        params = CASES[self.name]
        return resolve(params.implementation)(self.base_dir, params)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, make_bench: Any, tiny_mixed_snapshot_dir: Path) -> Case:
    base_dir = request.getfixturevalue(f"tiny_{request.param}_dir")
    images = AspectBuckets(step_pixels=16)
    bench = make_bench(base_dir, CASES[request.param], tiny_mixed_snapshot_dir, images)
    return Case(request.param, base_dir, bench)


def pair_of(features: CachedFeatures, bucket: int) -> int:
    return next(index for index in range(24) if features.bucket(index) == bucket)


def direct_prediction(name: str, denoiser: Any, noisy_BCHW: Tensor, batch: PairBatch) -> Tensor:
    """Run diffusers' own class on the chosen image, called as its pipeline calls it."""
    encoded, times_B = batch.chosen_captions, batch.timesteps_B
    states = encoded["states_LD"].float()
    if name in ("sd", "sdxl"):
        added = {"text_embeds": encoded["pooled_D"], "time_ids": encoded["time_ids_K"]} if name == "sdxl" else None
        return denoiser(noisy_BCHW, times_B, encoder_hidden_states=states, added_cond_kwargs=added).sample
    if name == "sd3":
        return denoiser(
            hidden_states=noisy_BCHW,
            timestep=times_B,
            encoder_hidden_states=states,
            pooled_projections=encoded["pooled_D"],
        ).sample
    batch_size, channels, height, width = noisy_BCHW.shape
    prediction = denoiser(
        hidden_states=FluxPipeline._pack_latents(noisy_BCHW, batch_size, channels, height, width),
        timestep=times_B / 1000,
        guidance=torch.full((batch_size,), 3.5),
        pooled_projections=encoded["pooled_D"],
        encoder_hidden_states=states,
        txt_ids=torch.zeros(states.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(batch_size, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    return FluxPipeline._unpack_latents(prediction, height * 8, width * 8, 8)


@pytest.mark.parametrize(("bucket", "shape"), [(0, (10, 6)), (2, (6, 10))])
def test_the_prediction_in_a_bucket_equals_that_of_the_real_denoiser(
    case: Case, bucket: int, shape: tuple[int, int]
) -> None:
    """All chosen images of a bucket at once; each has the same noise as in a batch of one."""
    features, backbone, index = case.features, case.backbone(), pair_of(case.features, bucket)
    spec = case.bench.train_spec(caption_dropout=0.0, global_batch=24, steps=1)
    visits = [Visit(pair, 0) for pair in range(24) if features.bucket(pair) == bucket]
    batch = assemble(visits, features, spec.recipe, backbone.schedule)
    assert batch.chosen_BCHW.shape[2:] == shape
    row = visits.index(Visit(index, 0))
    one = assemble([Visit(index, 0)], features, spec.recipe, backbone.schedule)
    assert torch.equal(one.noise_BCHW[0], batch.noise_BCHW[row])
    noisy_BCHW = backbone.schedule.add_noise(batch.chosen_BCHW, batch.noise_BCHW, batch.timesteps_B)
    denoiser = backbone.load_denoiser()
    with torch.no_grad():
        ours = backbone.predict(denoiser, noisy_BCHW, batch.timesteps_B, batch.chosen_captions)
        theirs = direct_prediction(case.name, denoiser, noisy_BCHW, batch)
    assert ours.shape == noisy_BCHW.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_run_over_all_buckets_begins_with_the_mean_error_of_the_real_denoiser(case: Case, tmp_path: Path) -> None:
    features, backbone = case.features, case.backbone()
    spec = case.bench.train_spec(caption_dropout=0.0, global_batch=24, steps=2, tuning={"kind": "full"})
    assert case.bench.train(tmp_path / "out", spec, Placement(micro_batch=5)) == 0
    lines = [json.loads(line)["metrics"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    denoiser, total = backbone.load_denoiser(), 0.0
    for index in range(24):
        batch = assemble([Visit(index, 0)], features, spec.recipe, backbone.schedule)
        noisy_BCHW = backbone.schedule.add_noise(batch.chosen_BCHW, batch.noise_BCHW, batch.timesteps_B)
        target_BCHW = backbone.schedule.target(batch.chosen_BCHW, batch.noise_BCHW, batch.timesteps_B)
        with torch.no_grad():
            answer_BCHW = direct_prediction(case.name, denoiser, noisy_BCHW, batch)
        total += float((answer_BCHW - target_BCHW).square().mean())
    assert lines[0]["chosen_error"] == pytest.approx(total / 24, rel=1e-4)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[1]["chosen_error_minus_reference"] != 0


def test_timesteps_follow_the_shift_of_the_buckets_own_length(case: Case) -> None:
    """FLUX alone shifts by length: 15 tokens in a bucket of 6 x 10 latent pixels, 16 in the square."""
    features, backbone, index = case.features, case.backbone(), pair_of(case.features, 2)
    recipe = case.bench.train_spec().recipe
    drawn = float(assemble([Visit(index, 0)], features, recipe, backbone.schedule).timesteps_B[0])
    square = float(backbone.schedule.draw_timestep(stream("pair", recipe.seed, 0, index)))
    if case.name != "flux":
        assert drawn == pytest.approx(square)
        return
    shift = {tokens: math.exp(0.5 + 0.65 * (tokens - 256) / (4096 - 256)) for tokens in (15, 16)}
    assert backbone.schedule.shift == pytest.approx(shift[16])
    odds = {name: t / (1000 - t) for name, t in (("drawn", drawn), ("square", square))}
    assert odds["drawn"] / odds["square"] == pytest.approx(shift[15] / shift[16], rel=1e-5)
    assert odds["drawn"] != pytest.approx(odds["square"], rel=1e-5)


def test_sdxl_gets_each_images_true_size_and_its_crop_in_the_bucket(case: Case) -> None:
    if case.name != "sdxl":
        assert not case.features.pair(0).chosen_image
        return
    cached = case.features.pair(0)
    # 96 x 60 in the bucket of 80 x 48 pixels: scaled to 80 x 50, of which one row goes on each side.
    assert cached.chosen_image["time_ids_K"].tolist() == [60, 96, 1, 0, 48, 80]
    assert cached.rejected_image["time_ids_K"].tolist() == [60, 96, 1, 0, 48, 80]
    own = [
        pair
        for pair in map(case.features.pair, range(24))
        if pair.chosen_image["time_ids_K"][:2].tolist() != pair.rejected_image["time_ids_K"][:2].tolist()
    ]
    assert own, "some rejected images have a different shape than the chosen ones"
    for pair in own:
        assert pair.chosen_image["time_ids_K"][4:].tolist() == pair.rejected_image["time_ids_K"][4:].tolist()
