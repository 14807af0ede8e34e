"""Compare the pairs per second of a training step with a plain loop that works as diffusers' research script does.

Both train the same LoRA (rank 8, float32) of the shapes world's model on the same pairs, with one CPU thread each:

    plain          every step decodes the images, encodes them with the VAE and the captions with the text encoder,
                   runs the policy, the reference (adapters off) and the backward pass
    ours           the train job on a feature cache; encoding it once is printed apart
    channels_last  the same with `channels_last`
    compiled       the same with `channels_last` and `compile_blocks`, which needs a C++ compiler; the first steps,
                   which compile, are left out

Printed for each batch size: the pairs per second of CPU time in each round, the ratio of their medians, and the bound:
the ratio that a loop would reach whose step is the plain loop's UNet work alone. CPU time leaves out the time in which
other work has the core; rounds alternate, since that work also fills caches.

Run `python benchmarks/train_step.py [ROUNDS]` (default 3); it takes about six minutes on an idle core.
"""

import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASE = ROOT / "examples" / "shapes" / "base"
PAIRS = ROOT / "examples" / "shapes" / "pairs" / "train-00000-of-00003.parquet"
BATCHES = (8, 16)
WARM, STEPS = 2, 8
BETA, RATE, RANK = 5000.0, 1e-5, 8
PLACEHOLDER = "0" * 64
GOALS = {"ours": 1.5, "channels_last": 1.5, "compiled": 2.0}
OPTIONS: dict[str, dict[str, bool]] = {
    "ours": {},
    "channels_last": {"channels_last": True},
    "compiled": {"channels_last": True, "compile_blocks": True},
}


def main(rounds: int) -> None:
    """Measure in alternating processes and print the ratios."""
    found: dict[str, list[dict[str, Any]]] = {"plain": [], **{who: [] for who in OPTIONS}}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for number in range(rounds):
            for who in found if number % 2 == 0 else reversed(found):
                found[who].append(measured(who, Path(scratch), number))
                print(f"round {number + 1} {who:13s} {shown(found[who][-1])}", flush=True)
    for batch in map(str, BATCHES):
        rates = {who: statistics.median(own[batch]["pairs_s"] for own in runs) for who, runs in found.items()}
        bound = statistics.median(own[batch]["bound"] for own in found["plain"])
        for who, goal in GOALS.items():
            ratio = rates[who] / rates["plain"]
            words = "met" if ratio >= goal else "missed" if bound >= goal else "above the bound of eager loops"
            print(f"batch {batch:>2s}, {who}: {ratio:.2f} x the plain loop; bound {bound:.2f}; goal {goal:g} {words}")


def shown(rows: dict[str, Any]) -> str:
    """Return the rates of a process on one line."""
    return "  ".join(f"batch {batch}: {rows[str(batch)]['pairs_s']:6.2f} pairs/s" for batch in BATCHES)


def measured(who: str, scratch: Path, number: int) -> dict[str, Any]:
    """Run one side; return its rows by batch."""
    rows: dict[str, Any] = json.loads(in_process(who, scratch, number).splitlines()[-1])
    return rows


def in_process(what: str, scratch: Path, number: int) -> str:
    """Run one part of this file in a process of one thread; return what it printed."""
    command = [sys.executable, "-W", "ignore", __file__, what, str(scratch), str(number)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr[-2000:]}")
    return done.stdout


# --- the pairs and the cache ------------------------------------------------------------------------------------------


def prepare(scratch: Path) -> None:
    """Write the decided pairs as a snapshot, and encode them once with the encode job."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in pq.read_table(PAIRS).to_pylist() if row["label_0"] != row["label_1"] and is_sound(row)]
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        first = row["label_0"] > row["label_1"]
        own = {
            "pair_id": f"{number:064x}",
            "prompt": row["caption"],
            "caption_chosen": row["caption"],
            "caption_rejected": row["caption"],
            "image_chosen": row["jpg_0" if first else "jpg_1"],
            "image_rejected": row["jpg_1" if first else "jpg_0"],
            "is_tie": False,
        }
        for name, value in own.items():
            columns.setdefault(name, []).append(value)
    snapshot = scratch / "inputs" / ("1" * 64)
    snapshot.mkdir(parents=True)
    pq.write_table(pa.table(columns), snapshot / "train.parquet")
    (scratch / "inputs" / PLACEHOLDER).symlink_to(BASE)
    started = time.perf_counter()
    in_process("encode", scratch, 0)
    seconds = time.perf_counter() - started
    print(f"encoded {len(rows)} pairs once in {seconds:.1f} s (start-up included)", flush=True)


def is_sound(row: dict[str, Any]) -> bool:
    """Return True if both images can be decoded: the shapes world has rows that its data rules should refuse."""
    from PIL import Image

    try:
        for side in ("jpg_0", "jpg_1"):
            with Image.open(io.BytesIO(row[side])) as image:
                if min(image.size) < 64:
                    return False
                image.load()
    except (OSError, SyntaxError, TypeError):
        return False
    return bool(row["caption"])


def encode(scratch: Path) -> None:
    """Write the feature cache."""
    from alignment.catalogues.backbones import StableDiffusion
    from alignment.contracts.data import EncodeSpec
    from alignment.jobs import encode as job

    spec = EncodeSpec(snapshot_digest="1" * 64, base_digest=PLACEHOLDER, backbone=StableDiffusion(resolution=64))
    job.main(job_paths(scratch, scratch / "inputs" / ("2" * 64), spec))


def job_paths(scratch: Path, out: Path, spec: Any, **placement: Any) -> Any:
    """Write a job's spec and placement; return its paths."""
    from alignment.contracts.jobs import Placement
    from alignment.jobs.outcome import JobPaths

    folder = scratch / f"job-{out.name}"
    folder.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    own = Placement(checkpoint_every_steps=10_000, **placement)
    (folder / "placement.json").write_text(own.model_dump_json(), encoding="utf-8")
    return JobPaths(folder / "spec.json", folder / "placement.json", scratch / "inputs", out)


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(scratch: Path, number: int, who: str) -> dict[str, Any]:
    """Run the train job with the options of a side; the time of a step is that between two lines of metrics."""
    from alignment.contracts.training import Recipe, TrainSpec
    from alignment.jobs import train as job
    from alignment.training import loop

    times: list[float] = []
    honest = loop.append_metrics

    def append(*given: Any) -> None:
        times.append(time.process_time())
        honest(*given)

    loop.append_metrics = append
    rows = {}
    for batch in BATCHES:
        recipe = Recipe.model_validate(
            {
                "name": "bench",
                "backbone": {"name": "stable_diffusion", "resolution": 64},
                "objective": {"name": "diffusion_dpo", "beta": BETA},
                "tuning": {"kind": "lora", "rank": RANK, "alpha": RANK},
                "optimiser": {"learning_rate": RATE},
                "global_batch": batch,
                "steps": WARM + STEPS + 1,
                "seed": number,
            }
        )
        out = scratch / f"{who}-{number}-{batch}"
        spec = TrainSpec(recipe=recipe, base_digest=PLACEHOLDER, cache_digest="2" * 64)
        job.main(job_paths(scratch, out, spec, micro_batch=batch, **OPTIONS[who]))
        timed = times[WARM - 1 : WARM + STEPS]
        times.clear()
        gaps = [after - before for before, after in itertools.pairwise(timed)]
        rows[str(batch)] = {"pairs_s": batch / statistics.median(gaps)}
    return rows


# --- the plain loop ---------------------------------------------------------------------------------------------------


class Clock:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside to a part."""
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


class PlainLoop:
    """The usual loop of a research script, without a cache of anything. B counts pairs, C H W a latent."""

    def __init__(self, scratch: Path) -> None:
        import pyarrow.parquet as pq
        import torch
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from peft import LoraConfig
        from transformers import CLIPTextModel, CLIPTokenizer

        torch.set_num_threads(1)
        self.pairs = pq.read_table(scratch / "inputs" / ("1" * 64) / "train.parquet").to_pylist()
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
        self.scheduler: Any = DDPMScheduler.from_pretrained(BASE / "scheduler")
        self.text: Any = CLIPTextModel.from_pretrained(BASE / "text_encoder", use_safetensors=True).requires_grad_(
            False
        )
        self.vae: Any = AutoencoderKL.from_pretrained(BASE / "vae", use_safetensors=True).requires_grad_(False)
        self.unet: Any = UNet2DConditionModel.from_pretrained(BASE / "unet", use_safetensors=True).requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        adapters = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
        self.unet.add_adapter(adapters)
        self.weights = [weight for weight in self.unet.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=RATE)
        self.clock = Clock()

    def images(self, rows: list[dict[str, Any]]) -> Any:
        """Decode both images of each pair: all chosen, then all rejected, in [-1, 1]."""
        import numpy as np
        import torch
        from PIL import Image

        arrays = []
        for side in ("image_chosen", "image_rejected"):
            for row in rows:
                image = Image.open(io.BytesIO(row[side])).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
                arrays.append(np.asarray(image, dtype=np.float32) / 127.5 - 1)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def step(self, rows: list[dict[str, Any]]) -> None:
        """Run one optimiser step."""
        import torch
        import torch.nn.functional as F

        clock, count = self.clock, len(rows)
        with clock.part("data"):
            pixels = self.images(rows)
            tokens = self.tokenizer(
                [row["prompt"] for row in rows], padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
        with clock.part("vae"), torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (count,)).repeat(2)
        noisy = self.scheduler.add_noise(latents, noise, times)
        with clock.part("text"), torch.no_grad():
            states = self.text(tokens)[0].repeat(2, 1, 1)
        with clock.part("policy"):
            policy = self.errors(noisy, times, states, noise)
        self.unet.disable_adapters()
        with clock.part("reference"), torch.no_grad():
            reference = self.errors(noisy, times, states, noise)
        self.unet.enable_adapters()
        (chosen, rejected), (base_chosen, base_rejected) = policy.chunk(2), reference.chunk(2)
        margin = (chosen - rejected) - (base_chosen - base_rejected)
        loss = -F.logsigmoid(-0.5 * BETA * margin).mean()
        with clock.part("backward"):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        loss.item()

    def errors(self, noisy: Any, times: Any, states: Any, noise: Any) -> Any:
        """Return the mean squared error of each prediction."""
        prediction = self.unet(noisy, times, states).sample
        return (prediction - noise).square().flatten(1).mean(dim=1)

    def run(self, batch: int) -> dict[str, float]:
        """Run the warm-up and the timed steps of a batch size."""
        gaps = []
        for number in range(WARM + STEPS):
            if number == WARM:
                self.clock.seconds.clear()
            first = number * batch % (len(self.pairs) - batch)
            started = time.process_time()
            self.step(self.pairs[first : first + batch])
            gaps.append(time.process_time() - started)
        timed = gaps[WARM:]
        work = sum(self.clock.seconds[part] for part in ("policy", "reference", "backward"))
        return {"pairs_s": batch / statistics.median(timed), "bound": sum(timed) / work}


def plain(scratch: Path) -> dict[str, Any]:
    """Run the plain loop for each batch size."""
    loop = PlainLoop(scratch)
    return {str(batch): loop.run(batch) for batch in BATCHES}


if __name__ == "__main__":
    if len(sys.argv) < 4:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    elif sys.argv[1] == "encode":
        encode(Path(sys.argv[2]))
    elif sys.argv[1] in GOALS:
        print(json.dumps(ours(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[1])))
    else:
        print(json.dumps(plain(Path(sys.argv[2]))))
