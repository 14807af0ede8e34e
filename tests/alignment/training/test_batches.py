"""Visits, shares, micro-batches, and the tensors of a batch."""

from typing import Any

import pytest
import torch

from alignment.backbones.noise_schedule import NoiseSchedule
from alignment.data.features import CachedFeatures
from alignment.training.batches import Visit, assemble, micro_batches, step_visits
from alignment.training.seeding import pair_randomness

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)
SCHEDULE = NoiseSchedule(torch.linspace(0.99, 0.01, 1000), "epsilon")


def one_bucket(pair: int) -> int:
    return 0


def test_steps_cover_epochs_without_gaps() -> None:
    visits = [visit for step in range(5) for visit in step_visits(step, global_batch=8, num_pairs=10, seed=1)]
    assert len(visits) == 40
    for epoch in range(4):
        assert sorted(visit.pair for visit in visits if visit.epoch == epoch) == list(range(10))
    assert step_visits(1, global_batch=8, num_pairs=10, seed=1) == visits[8:16]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_processes_divide_the_batch_exactly(num_processes: int, micro_batch: int) -> None:
    visits = [Visit(pair, 0) for pair in range(8)]
    shares = [
        micro_batches(visits, one_bucket, rank=rank, num_processes=num_processes, micro_batch=micro_batch)
        for rank in range(num_processes)
    ]
    assert [visit for share in shares for batch in share for visit in batch] == visits
    assert all(len(batch) <= micro_batch for share in shares for batch in share)
    sizes = [sum(len(batch) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_process_without_a_share_gets_one_filler_of_weight_zero() -> None:
    shares = [micro_batches([Visit(4, 2)], one_bucket, rank=rank, num_processes=3, micro_batch=2) for rank in range(3)]
    weights = [[visit.weight for batch in share for visit in batch] for share in shares]
    assert sorted(weights) == [[0.0], [0.0], [1.0]]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_no_piece_mixes_buckets_and_no_pair_is_dropped_or_repeated(num_processes: int, micro_batch: int) -> None:
    visits = [Visit(pair, pair % 2) for pair in (7, 0, 3, 12, 5, 9, 1, 4, 8, 2, 6)]

    def bucket(pair: int) -> int:
        return {0: 2, 3: 2, 9: 2, 12: 0}.get(pair, 1)

    shares = [
        micro_batches(visits, bucket, rank=rank, num_processes=num_processes, micro_batch=micro_batch)
        for rank in range(num_processes)
    ]
    pieces = [piece for share in shares for piece in share]
    assert all(len({bucket(visit.pair) for visit in piece}) == 1 and len(piece) <= micro_batch for piece in pieces)
    ordered = [visit for piece in pieces for visit in piece]
    assert [visit.pair for visit in ordered] == [12, 7, 5, 1, 4, 8, 2, 6, 0, 3, 9], "by bucket, else in the given order"
    assert sorted(map(repr, ordered)) == sorted(map(repr, visits))
    sizes = [sum(len(piece) for piece in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    if (num_processes, micro_batch) == (1, 3):
        assert [len(piece) for piece in pieces] == [1, 3, 3, 1, 3], "the remainder of a bucket is a smaller piece"


@pytest.fixture
def features(bench: Any) -> CachedFeatures:
    return CachedFeatures(bench.inputs / bench.cache.content_digest)


def test_a_row_is_its_pair_with_the_randomness_of_that_pair(bench: Any, features: CachedFeatures) -> None:
    recipe = bench.train_spec(caption_dropout=0.0).recipe
    batch = assemble([Visit(3, 1), Visit(9, 0, weight=0.0)], features, recipe, SCHEDULE)
    pair = features.pair(3)
    chance = pair_randomness(3, 1, 3, latent_shape=(4, 8, 8), draw_timestep=SCHEDULE.draw_timestep, caption_dropout=0.0)
    expected = pair.chosen_mean_CHW + pair.chosen_std_CHW * chance.latent_noise_CHW
    assert torch.equal(batch.chosen_BCHW[0], expected)
    expected = pair.rejected_mean_CHW + pair.rejected_std_CHW * chance.latent_noise_CHW
    assert torch.equal(batch.rejected_BCHW[0], expected)
    assert torch.equal(batch.noise_BCHW[0], chance.noise_CHW)
    assert batch.timesteps_B[0].item() == chance.timestep
    assert batch.weight_B.tolist() == [1.0, 0.0]
    states = features.conditioning([pair.caption_chosen])["states_LD"][0]
    assert torch.equal(batch.chosen_captions["states_LD"][0], states)


def test_flipping_labels_changes_sides_and_nothing_else(bench: Any, features: CachedFeatures) -> None:
    visits = [Visit(pair, 0) for pair in range(4)]
    straight = assemble(visits, features, bench.train_spec().recipe, SCHEDULE)
    flipped = assemble(visits, features, bench.train_spec(flip_labels=True).recipe, SCHEDULE)
    assert torch.equal(flipped.chosen_BCHW, straight.rejected_BCHW)
    assert torch.equal(flipped.rejected_BCHW, straight.chosen_BCHW)
    assert not torch.equal(straight.chosen_BCHW, straight.rejected_BCHW)
    assert torch.equal(flipped.noise_BCHW, straight.noise_BCHW)
    assert torch.equal(flipped.timesteps_B, straight.timesteps_B)


def test_each_image_has_its_caption_where_the_objective_uses_captions_and_the_prompt_elsewhere(
    captioned_bench: Any,
) -> None:
    features = CachedFeatures(captioned_bench.inputs / captioned_bench.cache.content_digest)
    pair = features.pair(5)

    def captions(objective: str, *, flip_labels: bool = False) -> list[torch.Tensor]:
        spec = captioned_bench.train_spec(objective={"name": objective}, caption_dropout=0.0, flip_labels=flip_labels)
        batch = assemble([Visit(5, 0)], features, spec.recipe, SCHEDULE)
        return [batch.chosen_captions["states_LD"], batch.rejected_captions["states_LD"]]

    def states(caption: int) -> torch.Tensor:
        return features.conditioning([caption])["states_LD"]

    own = [states(pair.caption_chosen), states(pair.caption_rejected)]
    assert not torch.equal(*own)
    assert [torch.equal(*both) for both in zip(captions("dcpo"), own, strict=True)] == [True, True]
    turned = captions("dcpo", flip_labels=True)
    assert [torch.equal(*both) for both in zip(turned, own[::-1], strict=True)] == [True, True]
    prompt = states(pair.prompts[0])
    for objective in ("diffusion_dpo", "mapo", "sft"):
        assert all(torch.equal(side, prompt) for side in captions(objective)), objective


def test_dropped_captions_are_the_empty_one_on_both_sides(bench: Any, features: CachedFeatures) -> None:
    batch = assemble([Visit(0, 0)], features, bench.train_spec(caption_dropout=1.0).recipe, SCHEDULE)
    empty = features.conditioning([0])["states_LD"]
    assert torch.equal(batch.chosen_captions["states_LD"], empty)
    assert torch.equal(batch.rejected_captions["states_LD"], empty)


def test_moving_a_batch_keeps_it(bench: Any, features: CachedFeatures) -> None:
    batch = assemble([Visit(0, 0)], features, bench.train_spec().recipe, SCHEDULE)
    moved = batch.to(torch.device("meta"))
    assert moved.chosen_BCHW.device.type == moved.chosen_captions["states_LD"].device.type == "meta"
    assert moved.weight_B.shape == batch.weight_B.shape


def test_known_errors_follow_the_labels(bench: Any, features: CachedFeatures) -> None:
    def known(visits: Any) -> dict[str, torch.Tensor]:
        numbers = torch.tensor([float(visit.pair) for visit in visits])
        return {"chosen_B": numbers, "rejected_B": numbers + 0.5}

    visits = [Visit(3, 1), Visit(9, 0)]
    straight = assemble(visits, features, bench.train_spec().recipe, SCHEDULE, known=known)
    flipped = assemble(visits, features, bench.train_spec(flip_labels=True).recipe, SCHEDULE, known=known)
    assert straight.known_reference["chosen_B"].tolist() == [3.0, 9.0]
    assert flipped.known_reference["chosen_B"].tolist() == [3.5, 9.5]
    assert flipped.known_reference["rejected_B"].tolist() == [3.0, 9.0]
    assert assemble(visits, features, bench.train_spec().recipe, SCHEDULE).known_reference == {}
    second = straight.rows(1, 2)
    assert second.known_reference["chosen_B"].tolist() == [9.0]
    assert torch.equal(second.chosen_BCHW, straight.chosen_BCHW[1:])
    assert len(second.chosen_captions["states_LD"]) == 1
