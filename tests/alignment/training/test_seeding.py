"""Randomness is a function of its key and of nothing else."""

import torch

from alignment.backbones.flow_matching import FlowMatchingSchedule
from alignment.backbones.noise_schedule import NoiseSchedule
from alignment.training.seeding import epoch_order, pair_randomness, stream, stream_seed

SCHEDULE = NoiseSchedule(torch.linspace(0.99, 0.01, 1000), "epsilon")


def draw(seed: int = 1, epoch: int = 0, pair: int = 5, *, caption_dropout: float = 0.5) -> tuple[object, ...]:
    chance = pair_randomness(
        seed, epoch, pair, latent_shape=(4, 8, 8), draw_timestep=SCHEDULE.draw_timestep, caption_dropout=caption_dropout
    )
    return chance.timestep, chance.caption_dropped, chance.noise_CHW.tolist(), chance.latent_noise_CHW.tolist()


def test_the_same_key_gives_the_same_draw_whatever_else_was_drawn() -> None:
    first = draw()
    torch.manual_seed(99)
    torch.randn(10)
    draw(pair=6)
    assert draw() == first


def test_seed_epoch_and_pair_each_matter() -> None:
    draws = [draw(), draw(seed=2), draw(epoch=1), draw(pair=6), draw(seed=10, epoch=5)]
    assert len({str(drawn[2]) for drawn in draws}) == len(draws)
    assert stream_seed("pair", 1, 11) != stream_seed("pair", 11, 1)
    assert 0 <= stream_seed("x") < 2**63


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    draw()
    epoch_order(4, 4, 50)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_is_standard_normal_and_the_two_noises_differ() -> None:
    chances = [
        pair_randomness(3, 0, pair, latent_shape=(4, 8, 8), draw_timestep=SCHEDULE.draw_timestep, caption_dropout=0.2)
        for pair in range(400)
    ]
    noise = torch.stack([chance.noise_CHW for chance in chances])
    latent = torch.stack([chance.latent_noise_CHW for chance in chances])
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.std().item() - 1) < 0.01
    assert abs((noise * latent).mean().item()) < 0.01
    timesteps = torch.tensor([chance.timestep for chance in chances]).float()
    assert 0 <= timesteps.min() < 30
    assert 970 < timesteps.max() <= 999
    assert abs(timesteps.mean().item() - 499.5) < 45
    assert 50 < sum(chance.caption_dropped for chance in chances) < 110


def test_dropout_bounds() -> None:
    assert not any(draw(pair=pair, caption_dropout=0.0)[1] for pair in range(50))
    assert all(draw(pair=pair, caption_dropout=1.0)[1] for pair in range(50))
    assert draw(caption_dropout=0.0)[2] == draw(caption_dropout=1.0)[2], "dropout does not move the noise"


def test_each_epoch_visits_every_pair_once_in_its_own_order() -> None:
    first, second = epoch_order(1, 0, 40), epoch_order(1, 1, 40)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first == epoch_order(1, 0, 40)


def test_a_stream_starts_at_its_beginning() -> None:
    assert torch.equal(torch.randn(3, generator=stream("a", 1)), torch.randn(3, generator=stream("a", 1)))


def test_a_flow_draws_timesteps_deterministically() -> None:
    def timestep(seed: int, epoch: int, pair: int) -> float:
        draw_timestep = FlowMatchingSchedule().draw_timestep
        return pair_randomness(
            seed, epoch, pair, latent_shape=(4, 2, 2), draw_timestep=draw_timestep, caption_dropout=0.0
        ).timestep

    first = timestep(1, 0, 5)
    torch.manual_seed(9)
    assert timestep(1, 0, 5) == first
    assert len({first, timestep(2, 0, 5), timestep(1, 1, 5), timestep(1, 0, 6)}) == 4
    assert 0 < first < 1000
    assert not first.is_integer()
