"""Measure the memory of a full fine-tune by objective. MaPO holds no reference model; PRDP does not grow with steps.

Each objective runs two optimiser steps in a separate process, on the CPU, with the same base: that of the shapes world
with a larger UNet, so that weights need more memory than activations, as in a real run. Printed for each:

    held   tensors alive after the backward pass: weights, gradients, AdamW's moments, a reference copy if there is one
    peak   peak resident memory of the process minus its memory before the base was loaded (libraries)

Run `python benchmarks/objective_memory.py`; it takes about two minutes on an idle core.
"""

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.optimisers import AdamW
from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.jobs import Placement
from alignment.contracts.training import OnlineData, Recipe, TrainSpec
from alignment.data.prompt_lines import PromptLines
from alignment.training.batches import PairBatch
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline_update import OfflineUpdate
from alignment.training.online import OnlineUpdate
from alignment.training.update import MakeUpdate

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "0" * 64
PAIRS = 4
OBJECTIVES: dict[str, dict[str, Any]] = {
    "diffusion_dpo": {"name": "diffusion_dpo", "beta": 2000.0},
    "mapo": {"name": "mapo"},
} | {
    f"prdp, {steps} steps": {
        "name": "prdp",
        "reward": "brightness",
        "beta": 1e-3,
        "clip_range": 1e-3,
        "images_per_prompt": 2,
        "sampler_steps": steps,
        "guidance_scale": 3.0,
    }
    for steps in (10, 50)
}


def main() -> None:
    """Measure every objective and print the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        make_base(Path(scratch) / "base")
        measured = {}
        for name in OBJECTIVES:
            measured[name] = numbers = measure(name, Path(scratch))
            line = f"{name:18s} held {numbers['held_mib']:7.1f} MiB   peak {numbers['peak_mib']:7.1f} MiB"
            print(line, flush=True)
    compare("mapo / diffusion_dpo (to be below 1)", measured["mapo"], measured["diffusion_dpo"])
    compare("prdp, 50 steps / 10 steps (to be 1)", measured["prdp, 50 steps"], measured["prdp, 10 steps"])


def compare(title: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Print one line of ratios."""
    held, peak = (ours[name] / theirs[name] for name in ("held_mib", "peak_mib"))
    print(f"{title}: held {held:.3f}, peak {peak:.3f}")


def make_base(folder: Path) -> None:
    """Write the shapes base with a UNet of 43 million random weights instead of the shipped one."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(ROOT / "examples" / "shapes" / "base", folder)
    config = UNet2DConditionModel.load_config(folder / "unet")
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(
        config, block_out_channels=[256, 384], layers_per_block=1, attention_head_dim=8, norm_num_groups=32
    )
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")


def measure(name: str, scratch: Path) -> dict[str, float]:
    """Return the numbers of one objective, measured in a separate process."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "objective_memory.py"),
        name,
        str(scratch / "base"),
        str(scratch / name.replace(" ", "_")),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


# --- in the process of one objective ----------------------------------------------------------------------------------


def run(name: str, base_dir: Path, out: Path) -> None:
    """Run two optimiser steps and print the numbers as one line of JSON."""
    from alignment.backbones.stable_diffusion import StableDiffusionBackbone

    out.mkdir()
    before = peak_mib()
    spec = spec_of(name)
    backbone = StableDiffusionBackbone(base_dir, StableDiffusion(resolution=64))
    training = TrainingRun(RunInputs(spec, Placement(), backbone, update_of(spec, out), out))
    held = 0.0
    for step in range(2):
        training.update(step)
        held = max(held, held_mib())
        training.optimiser.step()
        training.optimiser.zero_grad(set_to_none=True)
    held = max(held, held_mib())
    print(json.dumps({"held_mib": held, "peak_mib": peak_mib() - before}))


def spec_of(name: str) -> TrainSpec:
    """Return the spec of a full fine-tune that is never written; its digests are placeholders."""
    recipe = Recipe.model_validate(
        {
            "name": "memory",
            "backbone": StableDiffusion(resolution=64),
            "objective": OBJECTIVES[name],
            "tuning": {"kind": "full"},
            "optimiser": AdamW(learning_rate=1e-6),
            "global_batch": 1 if name.startswith("prdp") else PAIRS,
            "steps": 2,
            "seed": 0,
        }
    )
    if not recipe.objective.online:
        return TrainSpec(recipe=recipe, base_digest=PLACEHOLDER, cache_digest=PLACEHOLDER)
    reward = {"name": "brightness", "scorer": ClipPreference(), "weights_digest": PLACEHOLDER}
    online = OnlineData.model_validate({"prompts_digest": PLACEHOLDER, "reward": reward})
    return TrainSpec(recipe=recipe, base_digest=PLACEHOLDER, online=online)


def update_of(spec: TrainSpec, out: Path) -> MakeUpdate:
    """Return gradients from random latents, or from images that the policy generates with brightness as reward."""
    if spec.online is None:
        return RandomPairs
    prompts = out / "prompts.txt"
    prompts.write_text("a small red circle on a white background\n", encoding="utf-8")
    return partial(OnlineUpdate, PromptLines(prompts), Brightness(), "brightness")


class Brightness:
    """A scorer without weights."""

    def score(self, images: list[Any], prompts: list[str]) -> torch.Tensor:
        """Return the mean of each image's pixels."""
        del prompts
        return torch.tensor([sum(image.convert("L").resize((8, 8)).getdata()) / 64 for image in images])


class RandomPairs(OfflineUpdate):
    """The offline update on latents of noise: memory does not depend on image content."""

    def __init__(self, bench: Any) -> None:
        super().__init__(features=None, bench=bench)  # type: ignore[arg-type]

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Run one micro-batch."""
        generator = torch.Generator().manual_seed(step)
        shape = (PAIRS, *self._bench.backbone.latent_shape)
        caption = {"states_LD": self._bench.backbone.encode_captions(["a circle"])["states_LD"].repeat(PAIRS, 1, 1)}
        batch = PairBatch(
            *(torch.randn(shape, generator=generator) for _ in range(3)),
            timesteps_B=torch.randint(1000, (PAIRS,), generator=generator),
            chosen_captions=caption,
            rejected_captions=caption,
            weight_B=torch.ones(PAIRS),
        )
        self.step(batch).loss_B.mean().backward()
        return {}


def held_mib() -> float:
    """Return the MiB of all live tensors, gradients included, counting each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values()) / 2**20


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB; Linux reports KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1], *map(Path, sys.argv[2:]))
    else:
        main()
