"""Train the judges of the shapes world: two tastes from preference pairs, and a plain caption matcher.

Each judge has its own renderings, and each taste its own annotators and labelling errors. Shape letters:
N rows of a pool, B batch, H W sides, L caption tokens.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
import world
from drawing import BACKGROUNDS, HUES, RADII, SHAPES, ImageArray, Subject, draw
from fit_generator import batches, optimiser
from networks import judge_pixels, make_clip, tokenize
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

logger = logging.getLogger(__name__)

WRONG_SUBJECT_SHARE = 0.25
MATCHING_WEIGHT = 0.3
MAX_LOGIT_SCALE = 4.6


@dataclass(frozen=True)
class JudgeBudget:
    """Training budget of a judge. Batch sizes are in images for matching, in pairs for taste."""

    num_images: int
    num_pairs: int
    match_steps: int
    taste_steps: int
    batch: int


@dataclass(frozen=True)
class JudgePlan:
    """One judge: its seed and, for a taste, its annotators (shares by group; none = matching only)."""

    seed: int
    groups: Mapping[str, float]


PLANS: Mapping[str, JudgePlan] = {
    "taste_a": JudgePlan(seed=11, groups={"bold": 0.6, "tidy": 0.2, "gentle": 0.2}),
    "taste_b": JudgePlan(seed=23, groups={"bold": 0.2, "tidy": 0.6, "gentle": 0.2}),
    "caption_match": JudgePlan(seed=37, groups={}),
}


@dataclass(frozen=True)
class Matches:
    """Images with the caption of each."""

    images_NHWC: Tensor
    ids_NL: Tensor
    caption_rows: Tensor


@dataclass(frozen=True)
class Comparisons:
    """Pairs of images for one caption; label is the chance that the first is preferred."""

    first_NHWC: Tensor
    second_NHWC: Tensor
    ids_NL: Tensor
    label_N: Tensor


def _weather(images: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Apply light blur and grain to half of the images, so that a judge is robust to a model's texture."""
    pixels = images.astype(np.float32)
    blurred = (
        pixels + np.roll(pixels, 1, axis=1) + np.roll(pixels, 1, axis=2) + np.roll(pixels, (1, 1), axis=(1, 2))
    ) / 4
    blur = rng.random(len(images)) < 0.25
    pixels[blur] = blurred[blur]
    grain = np.where(rng.random(len(images)) < 0.5, rng.uniform(0, 7, len(images)), 0.0).astype(np.float32)
    pixels += grain[:, None, None, None] * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def mistaken(subject: Subject, rng: np.random.Generator) -> Subject:
    """The subject with one or two of its words replaced."""
    for _ in range(int(rng.integers(1, 3))):
        field, table = (("size", RADII), ("colour", HUES), ("shape", SHAPES), ("background", BACKGROUNDS))[
            rng.integers(4)
        ]
        subject = replace(subject, **{field: str(rng.choice(list(table)))})
    return subject


def _renderings(subjects: list[Subject], rng: np.random.Generator) -> ImageArray:
    parts = [subjects[at : at + 256] for at in range(0, len(subjects), 256)]
    return np.concatenate([_weather(draw([world.random_scene(s, rng) for s in part]), rng) for part in parts])


def make_matches(num_images: int, seed: int, *, tokenizer: CLIPTokenizer, device: torch.device) -> Matches:
    """Render images with their captions for contrastive matching."""
    rng = np.random.default_rng(seed)
    subjects = world.subjects()
    rows = rng.integers(0, len(subjects), num_images)
    images = _renderings([subjects[row] for row in rows], rng)
    ids = tokenize(tokenizer, [subjects[row].caption for row in rows])
    return Matches(torch.from_numpy(images).to(device), ids.to(device), torch.from_numpy(rows).to(device))


def make_comparisons(num_pairs: int, plan: JudgePlan, *, tokenizer: CLIPTokenizer, device: torch.device) -> Comparisons:
    """Render pairs, some with the wrong subject, and let the plan's annotators label them."""
    rng = np.random.default_rng(plan.seed + 1000)
    subjects = [world.subjects()[row] for row in rng.integers(0, len(world.subjects()), num_pairs)]
    sides = []
    for _ in range(2):
        wrong = rng.random(num_pairs) < WRONG_SUBJECT_SHARE
        shown = [mistaken(s, rng) if bad else s for s, bad in zip(subjects, wrong, strict=True)]
        sides.append(_renderings(shown, rng))
    groups = rng.choice(list(plan.groups), num_pairs, p=list(plan.groups.values()))
    labels = [
        world.annotate((first, second), subject.caption, str(group), rng=rng)
        for first, second, subject, group in zip(*sides, subjects, groups, strict=True)
    ]
    ids = tokenize(tokenizer, [subject.caption for subject in subjects]).to(device)
    first_NHWC, second_NHWC = (torch.from_numpy(side).to(device) for side in sides)
    return Comparisons(first_NHWC, second_NHWC, ids, torch.tensor(labels, dtype=torch.float32, device=device))


def matching_loss(model: CLIPModel, matches: Matches, rows: Tensor) -> Tensor:
    """Symmetric contrastive loss; the same caption elsewhere in the batch is not a negative."""
    rows = rows.to(matches.ids_NL.device)
    found = model(input_ids=matches.ids_NL[rows], pixel_values=judge_pixels(matches.images_NHWC[rows]))
    captions = matches.caption_rows[rows]
    same_caption = (captions[:, None] == captions[None, :]) & ~torch.eye(
        len(rows), dtype=torch.bool, device=rows.device
    )
    logits = found.logits_per_image.masked_fill(same_caption, -1e4)
    target = torch.arange(len(rows), device=rows.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def taste_loss(model: CLIPModel, comparisons: Comparisons, rows: Tensor) -> Tensor:
    """Cross entropy of the preferred image under exp(logit_scale) * cosine; ties have target one half."""
    rows = rows.to(comparisons.ids_NL.device)
    images = torch.cat([comparisons.first_NHWC[rows], comparisons.second_NHWC[rows]])
    found = model(input_ids=comparisons.ids_NL[rows], pixel_values=judge_pixels(images))
    first, second = found.image_embeds.chunk(2)
    margin = ((first - second) * found.text_embeds).sum(-1) * model.logit_scale.exp()
    return F.binary_cross_entropy_with_logits(margin, comparisons.label_N[rows])


def update(
    model: CLIPModel, loss: Tensor, adamw: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """One optimiser step; the logit scale stays within CLIP's bound."""
    adamw.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    schedule.step()
    model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)


def fit_judge(
    name: str, plan: JudgePlan, budget: JudgeBudget, *, tokenizer: CLIPTokenizer, device: torch.device
) -> CLIPModel:
    """Train one judge: caption matching first, then, if it has annotators, their preferences."""
    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    model = make_clip(tokenizer).to(device)
    matches = make_matches(budget.num_images, plan.seed, tokenizer=tokenizer, device=device)
    comparisons = make_comparisons(budget.num_pairs, plan, tokenizer=tokenizer, device=device) if plan.groups else None
    steps = budget.match_steps + (budget.taste_steps if comparisons else 0)
    adamw, schedule = optimiser(list(model.parameters()), 1.5e-3, steps)
    match_rows = batches(budget.num_images, budget.batch, steps, generator)
    taste_rows = batches(budget.num_pairs, budget.batch, steps, generator)
    for step in range(steps):
        loss = matching_loss(model, matches, next(match_rows))
        if comparisons is not None and step >= budget.match_steps:
            loss = MATCHING_WEIGHT * loss + taste_loss(model, comparisons, next(taste_rows))
        update(model, loss, adamw, schedule)
        if step % 200 == 0 or step == steps - 1:
            logger.info("judge %s step %d of %d: loss %.4f", name, step, steps, loss.item())
    return model.eval()
