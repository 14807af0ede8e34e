"""Measure a LoRA training step that finds the base's errors, as a ratio to one that computes them, in the same run.

The denoiser has the layers of Stable Diffusion 1.5 at a quarter of its width, random weights, and latents of 16 x 16.
Steps of both kinds alternate, in CPU time of one thread, so that other work on the machine hardly counts. Bar: 1.3
times the pairs per second. By the operations of the passes the bound is 1.5: a step is a forward pass and a backward
pass of as many operations, and the reference is one more forward pass.

Also printed: the seconds per pair of the job that computes the errors, whose passes are four times as large, over what
one recipe saves. And the rounding of the errors, in float32 and in bf16: the largest difference between a large batch
and its pairs one by one, and between latents and the same latents moved by 1e-6 of themselves.

Run `python benchmarks/shared_reference.py`; it takes about two minutes on one core.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import NoiseSchedule
from alignment.catalogues.objectives import DiffusionDPO
from alignment.objectives.inputs import PairErrors
from alignment.training.batches import PairBatch
from alignment.training.offline import OfflineStep, Predict

BAR = 1.3
ROUNDS = 7
PAIRS = 2
LATENT = (4, 16, 16)
TEXT = (77, 192)
BETA = 5000.0


def main() -> None:
    """Print the ratio, the price of the errors and their differences."""
    torch.set_num_threads(1)
    denoiser = small_denoiser()
    policy, reference = predict(denoiser), without_adapter(denoiser)
    schedule = NoiseSchedule(torch.linspace(0.999, 0.005, 1000), "epsilon")
    step = OfflineStep(DiffusionDPO(beta=BETA), schedule, policy=policy, reference=reference)
    optimiser = torch.optim.AdamW([weight for weight in denoiser.parameters() if weight.requires_grad], lr=1e-6)
    large = random_batch(4 * PAIRS)
    batch = large.rows(0, PAIRS)
    errors = errors_of(step, batch)
    known = replace(batch, known_reference={"chosen_B": errors.chosen_B, "rejected_B": errors.rejected_B})

    def train(pairs: PairBatch) -> Callable[[], None]:
        def run() -> None:
            step(pairs).loss_B.mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return run

    computed, found, job = alternate(train(batch), train(known), lambda: errors_of(step, large))
    ratio, price = computed / found, job / 4 / (computed - found)
    print(f"computed in the step {computed:.3f} s, found {found:.3f} s: {ratio:.2f} x (bar {BAR:.2f}, bound 1.50)")
    print(f"the job: {job / 4 / PAIRS:.3f} s a pair, {price:.2f} of what a recipe saves")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            show_rounding(name, step, large)
    if ratio < BAR:
        raise SystemExit(f"{ratio:.2f} is below the bar of {BAR:.2f}")


def small_denoiser() -> UNet2DConditionModel:
    """Return the UNet with adapters of rank 8."""
    from peft import LoraConfig

    torch.manual_seed(0)
    denoiser = UNet2DConditionModel(
        sample_size=LATENT[1],
        block_out_channels=(80, 160, 320, 320),
        cross_attention_dim=TEXT[1],
        attention_head_dim=8,
        norm_num_groups=16,
    )
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return denoiser


def predict(denoiser: UNet2DConditionModel) -> Predict:
    """Return the denoiser's prediction."""

    def run(noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        states_BLD = conditioning["states_LD"]
        prediction: Tensor = denoiser(noisy_BCHW, timesteps_B, encoder_hidden_states=states_BLD, return_dict=False)[0]
        return prediction

    return run


def without_adapter(denoiser: UNet2DConditionModel) -> Predict:
    """Return the prediction of the base."""
    policy = predict(denoiser)

    def run(noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        denoiser.disable_adapters()
        try:
            return policy(noisy_BCHW, timesteps_B, conditioning)
        finally:
            denoiser.enable_adapters()

    return run


def random_batch(pairs: int) -> PairBatch:
    """Return a batch of noise."""
    generator = torch.Generator().manual_seed(1)
    caption = {"states_LD": torch.randn(pairs, *TEXT, generator=generator)}
    return PairBatch(
        *(torch.randn(pairs, *LATENT, generator=generator) for _ in range(3)),
        timesteps_B=torch.randint(1000, (pairs,), generator=generator),
        chosen_captions=caption,
        rejected_captions=caption,
        weight_B=torch.ones(pairs),
    )


def errors_of(step: OfflineStep, batch: PairBatch) -> PairErrors:
    """Compute the base's errors as the job does; usable in passes with a gradient."""
    with torch.inference_mode():
        found = step.reference_errors(batch)
    return PairErrors(found.chosen_B.clone(), found.rejected_B.clone())


def alternate(*runs: Callable[[], object]) -> list[float]:
    """Return the median seconds of each function over rounds in which all of them run once; the first warms up."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, own in zip(runs, seconds, strict=True):
            started = time.process_time()
            run()
            own.append(time.process_time() - started)
    return [statistics.median(own[1:]) for own in seconds]


def show_rounding(name: str, step: OfflineStep, large: PairBatch) -> None:
    """Print differences that are rounding only, of errors and of the margin that they make."""
    together = errors_of(step, large)
    alone = [errors_of(step, large.rows(pair, pair + 1)) for pair in range(len(large.timesteps_B))]
    one_by_one = PairErrors(torch.cat([one.chosen_B for one in alone]), torch.cat([one.rejected_B for one in alone]))
    moved = replace(large, chosen_BCHW=large.chosen_BCHW * (1 + 1e-6), rejected_BCHW=large.rejected_BCHW * (1 + 1e-6))
    for what, other in (("pairs one by one", one_by_one), ("latents moved by 1e-6", errors_of(step, moved))):
        chosen_B, rejected_B = together.chosen_B - other.chosen_B, together.rejected_B - other.rejected_B
        error = float(torch.cat([chosen_B, rejected_B]).abs().max())
        margin = float((0.5 * BETA * (chosen_B - rejected_B)).abs().max())
        print(f"{name}, {what}: errors differ by {error:.1e}, margins at beta {BETA:g} by {margin:.1e}")


if __name__ == "__main__":
    main()
