"""Adapt the judges to a model's drawings: further training on samples of the base, mixed with renderings.

A judge trained only on renderings is unreliable on wobbly outlines and blur. Prompts are training prompts; seeds and
annotators are the judge's own, so that no image and no label is shared with the pairs or with another judge. Shape
letters: N rows of a pool, B batch, H W sides.

    python examples/shapes/refine_judges.py taste_a taste_b caption_match
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import world
from drawing import ImageArray
from fit_generator import batches, optimiser
from fit_judges import (
    MATCHING_WEIGHT,
    PLANS,
    Comparisons,
    JudgePlan,
    Matches,
    make_comparisons,
    make_matches,
    matching_loss,
    mistaken,
    taste_loss,
    update,
)
from networks import make_clip, make_tokenizer, save_judge, tokenize
from safetensors.torch import load_file
from sampling import load_pipeline, sample
from transformers import CLIPModel, CLIPTokenizer

logger = logging.getLogger(__name__)

NUM_SAMPLES = 4000
STEPS = 500
BATCH = 64
SAMPLER_STEPS = 10
"""Fewer than the evaluation's 20: twice as many training images for the same work, and rougher ones."""
WRONG_PROMPT_SHARE = 0.15
MATCH_FLOOR = 0.7
"""A sample is used with its caption only when the oracle's caption term confirms it."""
SHIFT_PIXELS = 6
CPU = torch.device("cpu")
Pool = TypeVar("Pool", Matches, Comparisons)
Sampled = tuple[list[str], ImageArray, ImageArray]


def sample_pairs(base_dir: Path, count: int, rng: np.random.Generator) -> Sampled:
    """Draw `count` prompts and two images [N, H, W, 3] of each; some are drawn for a wrong prompt."""
    pipeline, known = load_pipeline(base_dir), world.training_prompts()
    prompts = [known[row] for row in rng.integers(0, len(known), count)]
    sides = []
    for _ in range(2):
        drawn_for = [
            mistaken(world.parse_caption(prompt), rng).caption if rng.random() < WRONG_PROMPT_SHARE else prompt
            for prompt in prompts
        ]
        seeds = rng.integers(2**40, 2**41, count).tolist()
        sides.append(sample(pipeline, drawn_for, seeds, steps=SAMPLER_STEPS))
    return prompts, sides[0], sides[1]


def joined(one: Pool, two: Pool) -> Pool:
    """Concatenate the rows of both pools."""
    return type(one)(*(torch.cat([getattr(one, f.name), getattr(two, f.name)]) for f in fields(one)))


def sampled_comparisons(
    sampled: Sampled, plan: JudgePlan, *, tokenizer: CLIPTokenizer, rng: np.random.Generator
) -> Comparisons:
    """The pairs as the plan's annotators label them, and their mirror images."""
    prompts, first_NHWC, second_NHWC = sampled
    groups = rng.choice(list(plan.groups), len(prompts), p=list(plan.groups.values()))
    noise = world.Noise(tie_margin=0.02, temperature=0.04)
    labels = [
        world.annotate((first, second), prompt, str(group), rng=rng, noise=noise)
        for first, second, prompt, group in zip(first_NHWC, second_NHWC, prompts, groups, strict=True)
    ]
    found = Comparisons(
        torch.from_numpy(first_NHWC),
        torch.from_numpy(second_NHWC),
        tokenize(tokenizer, prompts),
        torch.tensor(labels, dtype=torch.float32),
    )
    mirror = Comparisons(found.first_NHWC.flip(2), found.second_NHWC.flip(2), found.ids_NL, found.label_N)
    return joined(found, mirror)


def sampled_matches(sampled: Sampled, *, tokenizer: CLIPTokenizer) -> Matches:
    """Select the samples that show their prompt."""
    numbers = {prompt: number for number, prompt in enumerate(world.all_prompts())}
    prompts, images = sampled[0] * 2, np.concatenate(sampled[1:])
    kept = [
        row
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        if world.qualities(image, prompt)["match"] > MATCH_FLOOR
    ]
    chosen = [prompts[row] for row in kept]
    rows = torch.tensor([numbers[prompt] for prompt in chosen])
    return Matches(torch.from_numpy(images[kept]), tokenize(tokenizer, chosen), rows)


def indifferent(found: Matches, rng: np.random.Generator) -> Matches:
    """Add shifted and paler copies to the pool, so that a caption matcher ignores place and vividness."""
    copies = found.images_NHWC.float().numpy().copy()
    side, pad = copies.shape[1], SHIFT_PIXELS
    for row, (down, right) in enumerate(rng.integers(-pad, pad + 1, (len(copies), 2))):
        wide = np.pad(copies[row], ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        copies[row] = wide[pad + down : pad + down + side, pad + right : pad + right + side]
    grey = copies.mean(-1, keepdims=True)
    strength = rng.uniform(0.55, 1.15, (len(copies), 1, 1, 1))
    shape = np.abs(copies - copies[:, :1, :1]).max(-1, keepdims=True) > 25
    images = np.where(shape, grey + strength * (copies - grey), copies)
    pale = torch.from_numpy(np.clip(np.rint(images), 0, 255).astype(np.uint8))
    return joined(found, Matches(pale, found.ids_NL, found.caption_rows))


def refine(model: CLIPModel, match: Matches, compare: Comparisons | None, *, seed: int, steps: int) -> None:
    """Continue training in place."""
    generator = torch.Generator().manual_seed(seed)
    adamw, schedule = optimiser(list(model.train().parameters()), 6e-4, steps)
    match_rows = batches(len(match.ids_NL), BATCH, steps, generator)
    taste_rows = batches(len(compare.ids_NL) if compare else BATCH, BATCH, steps, generator)
    for step in range(steps):
        loss = matching_loss(model, match, next(match_rows))
        if compare is not None:
            loss = MATCHING_WEIGHT * loss + taste_loss(model, compare, next(taste_rows))
        update(model, loss, adamw, schedule)
        if step % 50 == 0:
            logger.info("refining step %d of %d: loss %.4f", step, steps, loss.item())
    model.eval()


def refine_judge(shapes_dir: Path, name: str, *, num_samples: int = NUM_SAMPLES, steps: int = STEPS) -> None:
    """Replace a judge's weights by ones trained on `num_samples` pictures of the base as well."""
    plan, tokenizer, folder = PLANS[name], make_tokenizer(), shapes_dir / "judges" / name
    model = make_clip(tokenizer)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    rng = np.random.default_rng(plan.seed + 5000)
    sampled = sample_pairs(shapes_dir / "base", num_samples // 2, rng)
    rendered = make_matches(num_samples, plan.seed + 6000, tokenizer=tokenizer, device=CPU)
    match, compare = joined(sampled_matches(sampled, tokenizer=tokenizer), rendered), None
    if plan.groups:
        drawn = make_comparisons(
            num_samples // 2, JudgePlan(plan.seed + 7000, plan.groups), tokenizer=tokenizer, device=CPU
        )
        compare = joined(sampled_comparisons(sampled, plan, tokenizer=tokenizer, rng=rng), drawn)
    else:
        match = indifferent(match, rng)
    refine(model, match, compare, seed=plan.seed + 8000, steps=steps)
    save_judge(model, tokenizer, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and refine judge after judge."""
    parser = argparse.ArgumentParser(description="Refine judges on samples of the base model.")
    parser.add_argument("names", nargs="+", choices=PLANS, help="judges to refine, replaced in place")
    parser.add_argument("--shapes-dir", type=Path, default=Path(__file__).parent, help="folder with base/ and judges/")
    found = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.use_deterministic_algorithms(True)
    for name in found.names:
        refine_judge(found.shapes_dir, name)


if __name__ == "__main__":
    main()
