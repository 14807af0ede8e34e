"""Trajectories: the same bits when evaluated again, memory that does not grow with steps, noise with a fixed key."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import NoiseSchedule, _schedule_from_betas
from alignment.catalogues.objectives import PRDP
from alignment.training.online import _backward_piece, _Piece
from alignment.training.trajectories import AncestralSampler, Trajectories, trajectory_noise

SHAPE = (4, 8, 8)
SCHEDULE = _schedule_from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, "epsilon")
PROMPT = {"caption": torch.tensor([[1.0, -1.0]])}


class Denoiser(nn.Module):
    """A convolution moved by timestep and caption."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.condition = nn.Linear(3, 4)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)

    def forward(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        facts = torch.cat([timesteps[:, None] / 1000, conditioning["caption"]], dim=1)
        prediction: Tensor = self.convolution(noisy) + self.condition(facts)[:, :, None, None]
        return prediction


def sampler_of(*, steps: int = 6, guidance_scale: float = 3.0, most_images: int = 2) -> AncestralSampler:
    params = PRDP(
        reward="taste",
        beta=1.0,
        clip_range=1e-4,
        images_per_prompt=3,
        sampler_steps=steps,
        guidance_scale=guidance_scale,
    )
    empty = {"caption": torch.zeros(1, 2)}
    return AncestralSampler(SCHEDULE, params, empty=empty, most_images=most_images, device=torch.device("cpu"))


def noise(steps: int = 6, images: int = 3, **keys: int) -> Tensor:
    place = {"seed": 1, "epoch": 2, "slot": 3} | keys
    return trajectory_noise(**place, num_images=images, num_steps=steps, shape=SHAPE)


def drawn(sampler: AncestralSampler, policy: nn.Module, steps: int = 6) -> tuple[Trajectories, Tensor]:
    return sampler.draw(policy, Denoiser(seed=9), noise(steps), PROMPT)


def test_latents_alone_are_those_of_the_trajectories_also_with_a_prompt_for_each_image() -> None:
    sampler, policy = sampler_of(most_images=3), Denoiser()
    _, expected_BCHW = drawn(sampler, policy)
    assert torch.equal(sampler.latents(policy, noise(), PROMPT), expected_BCHW)
    prompts = {"caption": torch.tensor([[1.0, -1.0], [0.5, 2.0], [1.0, -1.0]])}
    mixed_BCHW = sampler.latents(policy, noise(), prompts)
    same = (mixed_BCHW - expected_BCHW).abs().amax(dim=(1, 2, 3))
    assert same[0] < 1e-4
    assert same[1] > 1e-3
    assert same[2] < 1e-4


def test_noise_is_a_function_of_seed_epoch_slot_and_image() -> None:
    assert torch.equal(noise(images=2), noise(images=3)[:2])
    for key in ("seed", "epoch", "slot"):
        assert not torch.equal(noise(), noise(**{key: 7}))
    assert not torch.equal(noise()[0], noise()[1])


def test_shapes_and_first_latents() -> None:
    trajectories, final = drawn(sampler_of(), Denoiser())
    assert trajectories.latents_BSCHW.shape == (3, 6, *SHAPE)
    assert trajectories.old_log_probs_BT.shape == trajectories.reference_log_probs_BT.shape == (3, 5)
    assert trajectories.old_log_probs_BT.dtype == torch.float64
    assert trajectories.num_steps == 5
    assert final.shape == (3, *SHAPE)
    assert torch.equal(trajectories.latents_BSCHW[:, 0], noise()[:, 0])


def test_evaluating_again_with_the_same_weights_gives_the_same_bits() -> None:
    policy = Denoiser()
    trajectories, _ = drawn(sampler_of(), policy)
    assert torch.equal(sampler_of().log_probs(policy, trajectories), trajectories.old_log_probs_BT)
    assert torch.equal(sampler_of().log_probs(Denoiser(seed=9), trajectories), trajectories.reference_log_probs_BT)
    with_gradient = sampler_of().step_log_prob(policy, trajectories, slice(0, 2), 1)
    assert with_gradient.requires_grad
    assert torch.equal(with_gradient.detach(), trajectories.old_log_probs_BT[:2, 1])


def test_log_ratios_keep_their_precision_for_nearly_equal_weights() -> None:
    """Weights 1e-4 apart: log-ratios of about 1e-5, for which float32 log-probabilities near 1 leave two digits."""
    policy = Denoiser()
    sampler = sampler_of(guidance_scale=1.0)
    trajectories, _ = drawn(sampler, policy)

    def slope(shift: float) -> Tensor:
        rows = []
        for sign in (1, -1):
            moved = Denoiser()
            with torch.no_grad():
                moved.condition.bias += sign * shift
            rows.append(sampler.log_probs(moved, trajectories))
        return (rows[0] - rows[1]) / shift

    near, far = slope(1e-4), slope(1e-2)
    assert (near - far).abs().max() < 2e-3 * far.abs().max()


def test_guidance_pushes_away_from_the_empty_prompt() -> None:
    policy = Denoiser()
    with torch.no_grad():
        policy.condition.weight.zero_()
    same, _ = drawn(sampler_of(guidance_scale=1.0), policy)
    guided, _ = drawn(sampler_of(guidance_scale=5.0), policy)
    torch.testing.assert_close(same.latents_BSCHW, guided.latents_BSCHW, msg="no caption, nothing to push away from")
    with torch.no_grad():
        policy.condition.weight[:, 1:] = 0.3
    one, _ = drawn(sampler_of(guidance_scale=1.0), policy)
    five, _ = drawn(sampler_of(guidance_scale=5.0), policy)
    assert not torch.allclose(one.latents_BSCHW, five.latents_BSCHW)


def test_step_by_step_backward_is_the_gradient_through_all_steps() -> None:
    sampler, policy = sampler_of(), Denoiser()
    trajectories, _ = drawn(sampler, policy)
    coefficients = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole = [
        torch.cat([sampler.step_log_prob(policy, trajectories, images, step) for images in (slice(0, 2), slice(2, 3))])
        for step in range(5)
    ]
    expected = torch.autograd.grad((torch.stack(whole, dim=1) * coefficients).sum(), list(policy.parameters()))
    for images in (slice(0, 2), slice(2, 3)):
        for step in range(5):
            _backward_piece(sampler, policy, _Piece(trajectories, images, step, coefficients[images, step]))
    for weight, gradient in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


class SavedBytes:
    """Counts the bytes that autograd keeps for backward passes: current and peak."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        counter = self

        class Held:
            """A kept tensor; its bytes count until it is freed."""

            def __init__(self) -> None:
                self.tensor = tensor
                counter.now += tensor.nbytes
                counter.peak = max(counter.peak, counter.now)

            def __del__(self) -> None:
                counter.now -= self.tensor.nbytes

        return Held()

    def unpack(self, held: Any) -> Tensor:
        tensor: Tensor = held.tensor
        return tensor


@pytest.mark.parametrize("per_step", [True, False])
def test_memory_for_backward_does_not_grow_with_steps(per_step: bool) -> None:
    """10 steps and 50: the same peak to the byte. Through all steps at once it would be five times as much."""
    peaks = []
    for steps in (10, 50):
        sampler, policy, counter = sampler_of(steps=steps), Denoiser(), SavedBytes()
        trajectories, _ = drawn(sampler, policy, steps)
        with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
            if per_step:
                for step in range(steps - 1):
                    _backward_piece(sampler, policy, _Piece(trajectories, slice(0, 2), step, torch.ones(2).double()))
            else:
                rows = [sampler.step_log_prob(policy, trajectories, slice(0, 2), step) for step in range(steps - 1)]
                torch.stack(rows).sum().backward()
        peaks.append(counter.peak)
    assert peaks[0] > 0
    if per_step:
        assert peaks[0] == peaks[1]
    else:
        assert peaks[1] > 5 * peaks[0]


def test_drawing_keeps_nothing_for_backward() -> None:
    counter = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
        drawn(sampler_of(), Denoiser())
    assert counter.peak == 0


def test_schedule_is_the_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    velocity = NoiseSchedule(SCHEDULE.alphas_cumprod_T, "v_prediction")
    sampler = sampler_of()
    sampler.schedule = velocity
    policy = Denoiser()
    ours, _ = drawn(sampler, policy)
    noise_prediction, _ = drawn(sampler_of(), policy)
    assert not torch.allclose(ours.latents_BSCHW, noise_prediction.latents_BSCHW)
