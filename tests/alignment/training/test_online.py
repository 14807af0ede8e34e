"""The online step on a tiny Stable Diffusion: prompts, shares, gradients, rewards that are not numbers, ties."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageStat
from torch import Tensor

from alignment.backbones.flow_matching import FlowMatchingSchedule
from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import JobStoppedError, Placement, norm_ratios
from alignment.contracts.training import TrainSpec
from alignment.data.prompt_lines import PromptLines
from alignment.training.checkpoint import trainable
from alignment.training.online import OnlineUpdate, _Slot
from alignment.training.prediction_norm import norm_metrics
from alignment.training.update import Workbench

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@dataclass
class Brightness:
    """A scorer that prefers light images, or returns a given value."""

    digest: str = "0" * 64
    transform: Callable[[Tensor], Tensor] = lambda scores_B: scores_B

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        return self.transform(torch.tensor([ImageStat.Stat(image.convert("L")).mean[0] / 255 for image in images_B]))


@dataclass
class Ranks:
    """One process of several, without the others."""

    process_index: int
    num_processes: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def update_of(online: Any, spec: TrainSpec | None = None, *, scorer: Any = None, accelerator: Any = None) -> Any:
    spec = spec or online.train_spec()
    inputs = online.bench.inputs
    backbone = StableDiffusionBackbone(inputs / spec.base_digest, spec.recipe.backbone)
    denoiser = backbone.load_denoiser()
    backbone.attach(denoiser, spec.recipe.tuning, 0)
    bench = Workbench(
        spec.recipe,
        Placement(micro_batch=2),
        backbone,
        accelerator or Accelerator(cpu=True),
        denoiser=denoiser,
        wrapped=denoiser,
    )
    return OnlineUpdate(PromptLines(inputs / spec.online.prompts_digest), scorer or Brightness(), "light", bench)


def gradient_of(update: Any) -> Tensor:
    weights = [weight for _, weight in trainable(update._bench.denoiser)]
    return torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights])


def test_epochs_are_shuffled_passes_over_the_file(online_bench: Any) -> None:
    update = update_of(online_bench, online_bench.train_spec(objective={"num_minibatches": 2}))
    epochs = [update.epoch_slots(epoch) for epoch in range(5)]
    assert [[slot.number for slot in minibatch] for minibatch in epochs[0]] == [[0, 1], [2, 3]]
    seen = [slot.prompt for epoch in epochs for minibatch in epoch for slot in minibatch]
    assert sorted(seen[:5]) == sorted(seen[5:10]) == sorted({*seen}), "five prompts, each once a pass"
    assert seen[:5] != seen[5:10] != seen[10:15]


def test_processes_divide_a_minibatch_and_fill_up_with_slots_of_weight_zero(online_bench: Any) -> None:
    slots = [_Slot(number, f"prompt {number}") for number in range(3)]
    shares = [update_of(online_bench, accelerator=Ranks(rank, 2))._share(slots) for rank in range(2)]
    assert [slot.number for share in shares for slot in share] == [0, 1, 2]
    filler = update_of(online_bench, accelerator=Ranks(0, 2))._share(slots[:1])
    assert filler == [_Slot(0, "prompt 0", weight=0.0)]


def test_two_processes_draw_the_images_of_one(online_bench: Any) -> None:
    alone = update_of(online_bench)._draw_epoch(1)[0]
    separate = [update_of(online_bench, accelerator=Ranks(rank, 2))._draw_epoch(1)[0][0] for rank in range(2)]
    for ours, theirs in zip(separate, alone, strict=True):
        assert ours.slot == theirs.slot
        assert torch.equal(ours.trajectories.latents_BSCHW, theirs.trajectories.latents_BSCHW)
        assert torch.equal(ours.rewards_B, theirs.rewards_B)


def test_gradient_is_the_mean_over_prompts_of_the_whole_trajectories_gradient(online_bench: Any) -> None:
    """One backward pass through every step of every image at once, compared with ours, one step at a time."""
    update = update_of(online_bench)
    sums = update(0)
    ours = gradient_of(update)
    for _, weight in trainable(update._bench.denoiser):
        weight.grad = None
    total = torch.zeros((), dtype=torch.float64)
    for scored in update._minibatches[0]:
        trajectories = scored.trajectories
        columns = [
            torch.cat(
                [
                    update._sampler.step_log_prob(update._policy, trajectories, images, step)
                    for images in update._sampler.pieces(trajectories.latents_BSCHW)
                ]
            )
            for step in range(trajectories.num_steps)
        ]
        mean_B = (torch.stack(columns, dim=1) - trajectories.reference_log_probs_BT).mean(dim=1)
        rewards_B = scored.rewards_B.double()
        residual_BB = mean_B[:, None] - mean_B[None, :] - (rewards_B[:, None] - rewards_B[None, :]) / 3.0
        total = total + residual_BB[rewards_B[:, None] > rewards_B[None, :]].square().mean() / 2
    total.backward()
    expected = gradient_of(update)
    assert expected.norm() > 0
    assert (ours - expected).norm() < 1e-5 * expected.norm()
    assert sums["loss"].item() / 2 == pytest.approx(total.item())
    assert sums["all_tied"] == 0
    assert sums["clipped_share"] == 0, "before the first update nothing has moved"


def test_a_step_raises_the_better_images_likelihood(online_bench: Any) -> None:
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}))
    update(0)
    scored = update._minibatches[0][0]
    before = scored.trajectories.old_log_probs_BT.mean(dim=1)
    with torch.no_grad():
        scale = 1e-3 / gradient_of(update).norm()
        for _, weight in trainable(update._bench.denoiser):
            if weight.grad is not None:
                weight -= scale * weight.grad
    after = update._sampler.log_probs(update._silent, scored.trajectories).mean(dim=1)
    rose = after - before
    best, worst = scored.rewards_B.argmax(), scored.rewards_B.argmin()
    assert rose[best] > rose[worst]


def test_the_gain_is_the_change_of_reward_on_fresh_images(online_bench: Any) -> None:
    """A last bias makes every noise prediction higher, so every image darker or lighter than the base's."""
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}, steps=40))
    assert update.measure(1) == update.measure(7) == {}
    assert update.measure(4)["reward_gain"] == 0, "the policy begins as the reference"
    with torch.no_grad():
        update._bench.denoiser.conv_out.bias += 0.5
    state = torch.random.get_rng_state()
    gain = update.measure(8)["reward_gain"].item()
    assert torch.equal(state, torch.random.get_rng_state())
    assert gain == update.measure(40)["reward_gain"].item() != 0
    with torch.no_grad():
        update._bench.denoiser.conv_out.bias -= 1.0
    assert update.measure(12)["reward_gain"].item() * gain < 0


def test_a_lora_is_measured_against_its_disabled_adapter(online_bench: Any) -> None:
    update = update_of(online_bench)
    with torch.no_grad():
        for name, weight in trainable(update._bench.denoiser):
            weight += 0.5 if "lora_B" in name else 0
    assert update.measure(6)["reward_gain"] != 0


def test_a_measurement_of_images_that_are_not_finite_is_divergence(online_bench: Any) -> None:
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}))
    with torch.no_grad():
        next(update._bench.denoiser.parameters()).fill_(float("nan"))
    with pytest.raises(JobStoppedError, match="not finite") as stopped:
        update.measure(6)
    assert stopped.value.kind == "diverged"


def test_later_steps_of_an_epoch_reuse_its_images_with_updated_weights(online_bench: Any) -> None:
    update = update_of(online_bench)
    update(0)
    drawn = update._minibatches
    with torch.no_grad():
        for name, weight in trainable(update._bench.denoiser):
            weight += 0.05 if "lora_B" in name else 0
    sums = update(1)
    assert update._minibatches is drawn
    assert sums["clipped_share"] > 0
    assert [update.may_pause(step) for step in range(4)] == [True, False, True, False]


def test_all_tied_prompts_are_counted_and_give_no_gradient(online_bench: Any) -> None:
    update = update_of(online_bench, scorer=Brightness(transform=torch.zeros_like))
    sums = update(0)
    assert sums["all_tied"] == 2
    assert sums["loss"] == 0
    assert all(value.isfinite() for value in sums.values())
    assert not gradient_of(update).any()


def test_a_reward_that_is_not_a_number_is_named(online_bench: Any) -> None:
    update = update_of(online_bench, scorer=Brightness(transform=lambda scores_B: scores_B * float("nan")))
    with pytest.raises(ValueError, match=r"Reward 'light' gave nan for an image of prompt 'a plain \w+ picture'"):
        update(0)


def test_an_image_that_is_not_finite_is_divergence(online_bench: Any) -> None:
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}))
    with torch.no_grad():
        next(update._bench.denoiser.parameters()).fill_(float("nan"))
    with pytest.raises(JobStoppedError, match="not finite") as stopped:
        update(0)
    assert stopped.value.kind == "diverged"


def test_flipped_labels_begin_with_the_opposite_gradient(online_bench: Any) -> None:
    gradients = []
    for flip in (False, True):
        update = update_of(online_bench, online_bench.train_spec(flip_labels=flip))
        update(0)
        gradients.append(gradient_of(update))
    assert (gradients[0] + gradients[1]).norm() < 1e-6 * gradients[0].norm()


def test_a_flow_is_refused(online_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = StableDiffusionBackbone.__init__

    def flowing(self: Any, *arguments: Any) -> None:
        honest(self, *arguments)
        self.schedule = FlowMatchingSchedule()

    monkeypatch.setattr(StableDiffusionBackbone, "__init__", flowing)
    with pytest.raises(ValueError, match="'prdp' needs the Gaussian steps of a variance-preserving schedule"):
        update_of(online_bench)


def test_priming_leaves_only_zeros(online_bench: Any, tmp_path: Path) -> None:
    update = update_of(online_bench)
    update.prime(0)
    assert not gradient_of(update).any()


def test_the_norm_of_predictions_is_that_of_the_base_until_weights_change(online_bench: Any) -> None:
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}))
    assert norm_ratios(norm_metrics(update.norms())) == pytest.approx((1, 1, 1, 1), abs=1e-6)
    with torch.no_grad():
        update._bench.denoiser.conv_out.weight *= 2
        update._bench.denoiser.conv_out.bias *= 2
    assert norm_ratios(norm_metrics(update.norms())) == pytest.approx((2, 2, 2, 2), abs=1e-5)


def test_norms_keep_nothing_for_a_backward_pass(online_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    update = update_of(online_bench, online_bench.train_spec(tuning={"kind": "full"}))
    honest, graphs = type(update._sampler).prediction, list[bool]()

    def prediction(*given: Any) -> Any:
        graphs.append(torch.is_grad_enabled())
        return honest(*given)

    monkeypatch.setattr(type(update._sampler), "prediction", prediction)
    update.norms()
    assert set(graphs) == {False}
