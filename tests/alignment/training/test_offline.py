"""The offline step: shared noise, float32 squares, one reference pass where the objective needs it."""

from dataclasses import replace

import torch
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import NoiseSchedule
from alignment.catalogues.objectives import SFT, DiffusionDPO
from alignment.objectives.inputs import ObjectiveOutput, PairErrors
from alignment.training.batches import PairBatch
from alignment.training.offline import OfflineStep, _monitors, _noise_pairs, _pair_errors

SCHEDULE = NoiseSchedule(torch.linspace(0.99, 0.01, 1000), "epsilon")


def batch(pairs: int = 3) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, noise = torch.randn(3, pairs, 4, 8, 8, generator=generator)
    return PairBatch(
        chosen_BCHW=chosen,
        rejected_BCHW=rejected,
        noise_BCHW=noise,
        timesteps_B=torch.tensor([1, 500, 900][:pairs]),
        chosen_captions={"text": torch.zeros(pairs, 2)},
        rejected_captions={"text": torch.ones(pairs, 2)},
        weight_B=torch.ones(pairs),
    )


def test_both_sides_get_one_noise_and_timestep_and_their_own_caption() -> None:
    noised = _noise_pairs(batch(), SCHEDULE)
    assert torch.equal(noised.target_BCHW[:3], noised.target_BCHW[3:])
    assert noised.timesteps_B.tolist() == [1, 500, 900, 1, 500, 900]
    assert noised.conditioning["text"].tolist() == [[0.0, 0.0]] * 3 + [[1.0, 1.0]] * 3
    alpha = SCHEDULE.alphas_cumprod_T[500]
    expected = alpha.sqrt() * batch().rejected_BCHW[1] + (1 - alpha).sqrt() * batch().noise_BCHW[1]
    torch.testing.assert_close(noised.noisy_BCHW[4], expected)


def test_errors_are_means_squared_in_float32() -> None:
    prediction = torch.full((2, 4, 8, 8), 1.0, dtype=torch.bfloat16)
    prediction[1] = 3.0
    target = torch.full((2, 4, 8, 8), 0.7001)
    errors = _pair_errors(prediction, target)
    assert errors.chosen_B.dtype == torch.float32
    assert errors.chosen_B.shape == (1,)
    torch.testing.assert_close(errors.chosen_B, torch.tensor([(1 - 0.7001) ** 2]))
    torch.testing.assert_close(errors.rejected_B, torch.tensor([(3 - 0.7001) ** 2]))


def test_loss_reaches_the_policy_and_not_the_reference() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    calls: list[bool] = []

    def policy(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return noisy * weight

    def reference(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return noisy * weight

    step = OfflineStep(DiffusionDPO(beta=10.0), SCHEDULE, policy=policy, reference=reference)
    output = step(batch())
    output.loss_B.sum().backward()
    assert calls == [False]
    assert weight.grad is not None
    assert weight.grad.item() != 0
    torch.testing.assert_close(output.loss_B.detach(), torch.full((3,), 0.6931472))
    assert not any(value.requires_grad for value in output.monitors.values())


def test_sft_needs_no_reference() -> None:
    def refuse(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError

    step = OfflineStep(SFT(), SCHEDULE, policy=lambda noisy, *_: noisy, reference=refuse)
    output = step(batch())
    assert set(output.monitors) == {"loss", "margin", "implicit_accuracy", "chosen_error", "rejected_error"}


def test_monitors_by_hand() -> None:
    output = ObjectiveOutput(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, -0.5]))
    policy = PairErrors(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6]))
    reference = PairErrors(torch.tensor([0.2, 0.2, 0.2]), torch.tensor([0.3, 0.3, 0.3]))
    watched = _monitors(output, policy, reference)
    assert watched["implicit_accuracy"].tolist() == [1.0, 0.5, 0.0]
    torch.testing.assert_close(watched["chosen_error_minus_reference"], torch.tensor([-0.1, 0.0, 0.1]))
    torch.testing.assert_close(watched["rejected_error_minus_reference"], torch.tensor([0.1, 0.2, 0.3]))


def test_errors_that_are_known_replace_the_reference() -> None:
    def refuse(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError

    def policy(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return noisy * 0.5

    params = DiffusionDPO(beta=10.0)
    computed = OfflineStep(params, SCHEDULE, policy=refuse, reference=policy).reference_errors(batch())
    known = replace(batch(), known_reference={"chosen_B": computed.chosen_B, "rejected_B": computed.rejected_B})
    found = OfflineStep(params, SCHEDULE, policy=policy, reference=refuse)(known)
    plain = OfflineStep(params, SCHEDULE, policy=policy, reference=policy)(batch())
    assert torch.equal(found.loss_B, plain.loss_B)
    assert found.monitors.keys() == plain.monitors.keys()
