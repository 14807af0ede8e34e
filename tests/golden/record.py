"""Record the golden curves: 20 steps of a tiny denoiser per objective, float32 on one CPU thread.

`python tests/golden/record.py` rewrites tests/golden/curves/*.json. Run it only if the numbers change on purpose, and
state the reason in the pull request.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from alignment.backbones.flow_matching import FlowMatchingSchedule
from alignment.backbones.interface import Conditioning
from alignment.backbones.noise_schedule import ForwardProcess, _schedule_from_betas, checked_prediction_type
from alignment.catalogues.objectives import DCPO, PRDP, SFT, DiffusionDPO, MaPO, MaPOPaper, ObjectiveParams
from alignment.catalogues.optimisers import AdamW
from alignment.objectives.prdp import ScoredTrajectories, prdp_loss
from alignment.training.batches import PairBatch
from alignment.training.offline import OfflineStep
from alignment.training.online import _backward_piece, _monitors, _Piece
from alignment.training.optimisation import build_optimiser, learning_rate, set_learning_rate
from alignment.training.seeding import pair_randomness, stream
from alignment.training.trajectories import AncestralSampler, Trajectories, trajectory_noise

CURVES_DIR = Path(__file__).parent / "curves"
STEPS = 20
PAIRS = 6
SHAPE = (4, 8, 8)
CASES: dict[str, tuple[ObjectiveParams, str]] = {
    "dcpo": (DCPO(beta=200.0), "epsilon"),
    "diffusion_dpo": (DiffusionDPO(beta=200.0), "epsilon"),
    "diffusion_dpo_flow": (DiffusionDPO(beta=100.0), "flow"),
    "diffusion_dpo_hinge": (DiffusionDPO(beta=200.0, link="hinge"), "epsilon"),
    "diffusion_dpo_ipo": (DiffusionDPO(beta=200.0, link="ipo"), "epsilon"),
    "diffusion_dpo_v": (DiffusionDPO(beta=200.0), "v_prediction"),
    "mapo": (MaPO(), "epsilon"),
    "mapo_paper": (MaPOPaper(beta=2.0), "epsilon"),
    "prdp": (
        PRDP(
            reward="smooth",
            beta=0.05,
            clip_range=1e-2,
            images_per_prompt=4,
            updates_per_epoch=2,
            sampler_steps=6,
            guidance_scale=2.0,
        ),
        "epsilon",
    ),
    "sft": (SFT(), "epsilon"),
}


class TinyDenoiser(nn.Module):
    """Two convolutions conditioned on timestep and caption: large enough for a curve, and fast."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(SHAPE[0], 8, 3, padding=1)
        self.condition = nn.Linear(5, 8)
        self.leave = nn.Conv2d(8, SHAPE[0], 3, padding=1)
        generator = stream("golden", "weights")
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)

    def forward(self, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return a prediction in the shape of the input."""
        facts_BD = torch.cat([timesteps_B[:, None] / 1000, conditioning["caption"]], dim=1)
        hidden_BCHW = torch.tanh(self.enter(noisy_BCHW) + self.condition(facts_BD)[:, :, None, None])
        prediction: Tensor = self.leave(hidden_BCHW)
        return prediction


def schedule_named(name: str) -> ForwardProcess:
    """Return flow matching, or Stable Diffusion's betas with that prediction type."""
    if name == "flow":
        return FlowMatchingSchedule()
    betas_T = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return _schedule_from_betas(betas_T, checked_prediction_type(name, "record.py"))


def batch_of(epoch: int, schedule: ForwardProcess, *, own_captions: bool = False) -> PairBatch:
    """Return the same six pairs each epoch, with new noise. Chosen images are smoother than rejected ones."""
    generator = stream("golden", "pairs")
    chosen, rejected = torch.randn(2, PAIRS, *SHAPE, generator=generator)
    captions = torch.randn(PAIRS, 4, generator=generator)
    chance = [
        pair_randomness(7, epoch, pair, latent_shape=SHAPE, draw_timestep=schedule.draw_timestep, caption_dropout=0.0)
        for pair in range(PAIRS)
    ]
    return PairBatch(
        chosen_BCHW=chosen * 0.5,
        rejected_BCHW=rejected,
        noise_BCHW=torch.stack([draw.noise_CHW for draw in chance]),
        timesteps_B=torch.tensor([draw.timestep for draw in chance]),
        chosen_captions={"caption": captions},
        rejected_captions={"caption": captions.roll(1, dims=0) if own_captions else captions},
        weight_B=torch.ones(PAIRS),
    )


def curve(params: ObjectiveParams, prediction_type: str) -> dict[str, list[float]]:
    """Return the mean monitors of each step."""
    schedule = schedule_named(prediction_type)
    policy, reference = TinyDenoiser(), TinyDenoiser().requires_grad_(False)
    settings = AdamW(learning_rate=3e-3, warmup_steps=3, schedule="cosine")
    optimiser = build_optimiser(policy.parameters(), settings)
    make_gradient = online_gradient if isinstance(params, PRDP) else offline_gradient
    gradient = make_gradient(params, schedule, policy, reference)
    recorded: dict[str, list[float]] = {}
    for number in range(STEPS):
        for name, value in gradient(number).items():
            recorded.setdefault(name, []).append(value)
        set_learning_rate(optimiser, learning_rate(number, settings, STEPS))
        optimiser.step()
        optimiser.zero_grad()
    return recorded


def offline_gradient(params: ObjectiveParams, schedule: ForwardProcess, policy: nn.Module, reference: nn.Module) -> Any:
    """Return a function that runs a step on the six pairs: it sets gradients and returns the mean monitors."""
    step = OfflineStep(params, schedule, policy=policy, reference=reference)

    def gradient(number: int) -> dict[str, float]:
        output = step(batch_of(number, schedule, own_captions=params.needs_captions))
        output.loss_B.mean().backward()
        return {name: value_B.mean().item() for name, value_B in output.monitors.items()}

    return gradient


def smooth(latents_BCHW: Tensor) -> Tensor:
    """Return rewards_B, which are higher for latents with similar neighbours."""
    return -latents_BCHW.diff(dim=3).square().flatten(1).mean(dim=1).log()


def sampler_of(params: PRDP, schedule: ForwardProcess) -> AncestralSampler:
    """Return a sampler that generates all images of the prompt at once."""
    empty = {"caption": torch.zeros(1, 4)}
    most = params.images_per_prompt
    return AncestralSampler(schedule, params, empty=empty, most_images=most, device=torch.device("cpu"))


def draw(
    params: PRDP, schedule: ForwardProcess, policy: nn.Module, reference: nn.Module, *, epoch: int
) -> tuple[Trajectories, Tensor]:
    """Generate the images of an epoch's prompt."""
    noise = trajectory_noise(
        7, epoch, 0, num_images=params.images_per_prompt, num_steps=params.sampler_steps, shape=SHAPE
    )
    return sampler_of(params, schedule).draw(policy, reference, noise, {"caption": torch.ones(1, 4)})


def online_gradient(
    params: PRDP, schedule: ForwardProcess, policy: nn.Module, reference: nn.Module, *, reward: Any = smooth
) -> Any:
    """Return a function that runs a step on images of one prompt; some steps generate new images first."""
    count = params.images_per_prompt
    sampler = sampler_of(params, schedule)
    drawn: dict[str, Any] = {}

    def gradient(number: int) -> dict[str, float]:
        epoch, update = divmod(number, params.updates_per_epoch)
        if update == 0:
            drawn["trajectories"], latents_BCHW = draw(params, schedule, policy, reference, epoch=epoch)
            drawn["rewards"] = reward(latents_BCHW)
        trajectories, rewards_B = drawn["trajectories"], drawn["rewards"]
        judged = ScoredTrajectories(sampler.log_probs(policy, trajectories), trajectories.old_log_probs_BT, rewards_B)
        output = prdp_loss(judged, trajectories.reference_log_probs_BT, params)
        for step in range(trajectories.num_steps):
            _backward_piece(
                sampler, policy, _Piece(trajectories, slice(0, count), step, output.coefficients_BT[:, step])
            )
        return _monitors(output, rewards_B)

    return gradient


def record(name: str) -> dict[str, Any]:
    """Return the contents of a golden file."""
    params, prediction_type = CASES[name]
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "objective": params.model_dump(mode="json"),
        "prediction_type": prediction_type,
        "metrics": curve(params, prediction_type),
    }


def main() -> None:
    """Rewrite every curve."""
    torch.set_num_threads(1)
    CURVES_DIR.mkdir(exist_ok=True)
    for name in CASES:
        path = CURVES_DIR / f"{name}.json"
        path.write_text(json.dumps(record(name), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
