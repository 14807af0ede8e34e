"""Make the captioner of the shapes world from a seed: a tiny BLIP that describes an image.

    OMP_NUM_THREADS=1 python examples/shapes/make_captioner.py

writes OUT/captioner (BlipForConditionalGeneration and BlipProcessor) and prints the accuracy of its captions. It
trains on renderings, whose captions are known, and on samples of the base for training prompts, captioned by what
`measure.py` sees in them. Accuracy is measured on samples for held-out prompts, again against what is visible and not
against the prompt. Shape letters: N rows of a pool, B batch, H W sides, L caption tokens.
"""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import world
from drawing import BACKGROUNDS, CANVAS, HUES, RADII, SHAPES, ImageArray, Subject
from fit_generator import batches, optimiser
from fit_judges import make_matches
from measure import hue_distance, measure, unit_areas
from networks import caption_words, judge_pixels, make_tokenizer
from sampling import load_pipeline, sample
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

logger = logging.getLogger(__name__)

WIDTH = 64
MAX_TOKENS = 16
SEED = 53
SHIFT_PIXELS = 5
TRAINING_SAMPLER_STEPS = 10
"""Fewer than the evaluation's 20: twice as many training images for the same work, and rougher ones."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PARTS = ("size", "colour", "shape", "background")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Budget:
    """Training budget of the captioner: about five minutes of one CPU core."""

    num_renderings: int = 6000
    num_samples: int = 2500
    steps: int = 1400
    batch: int = 64


@dataclass(frozen=True)
class Captioned:
    """Images [N, H, W, 3] and the subject visible in each."""

    images_NHWC: ImageArray
    subjects: tuple[Subject, ...]


# --- visible content --------------------------------------------------------------------------------------------------


def seen_subject(image: ImageArray) -> Subject | None:
    """Return the subject closest to an image [H, W, 3]; None when it shows nothing, or nothing coloured."""
    facts = measure(image)
    colour = min(HUES, key=lambda name: hue_distance(facts.foreground, name))
    if not facts.visible or hue_distance(facts.foreground, colour) == 180.0:
        return None
    shape = max(SHAPES, key=lambda name: facts.shape_scores[name])
    radius = np.sqrt(facts.area / unit_areas()[shape])
    size = min(RADII, key=lambda name: abs(np.log(radius / RADII[name])))
    background = min(BACKGROUNDS, key=lambda name: np.linalg.norm(np.subtract(facts.background, BACKGROUNDS[name])))
    return Subject(size, colour, shape, background)


def seen(images_NHWC: ImageArray) -> Captioned:
    """Select the images that show something, with their subjects."""
    found = [(row, subject) for row, image in enumerate(images_NHWC) if (subject := seen_subject(image)) is not None]
    return Captioned(images_NHWC[[row for row, _ in found]], tuple(subject for _, subject in found))


def rendered(count: int, seed: int) -> Captioned:
    """Renderings of random subjects, some blurred or grainy."""
    matches = make_matches(count, seed, tokenizer=make_tokenizer(), device=CPU)
    known = world.subjects()
    return Captioned(matches.images_NHWC.numpy(), tuple(known[row] for row in matches.caption_rows.tolist()))


def sampled(base_dir: Path, prompts: Sequence[str], *, seed: int, steps: int) -> Captioned:
    """Draw one sample of the base for each prompt."""
    seeds = np.random.default_rng(seed).integers(2**41, 2**42, len(prompts)).tolist()
    return seen(sample(load_pipeline(base_dir), prompts, seeds, steps=steps))


# --- the network ------------------------------------------------------------------------------------------------------


def make_caption_tokenizer() -> BertTokenizer:
    """Build a tokenizer in which every caption word is one token."""
    pieces = (*SPECIAL_TOKENS, *caption_words())
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=MAX_TOKENS)


def make_blip(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Build the untrained captioner. Its captions begin with the tokenizer's [CLS], in training and in generation."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH, "num_attention_heads": 4}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "num_hidden_layers": 3, "image_size": CANVAS, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, image_text_hidden_size=WIDTH)
    return BlipForConditionalGeneration(config)


def moved(images_BHWC: Tensor, generator: torch.Generator) -> Tensor:
    """Shift the images by a few pixels and mirror them, one draw per batch; edges are repeated."""
    pad = SHIFT_PIXELS
    wide = nn.functional.pad(images_BHWC.permute(0, 3, 1, 2).float(), (pad,) * 4, mode="replicate")
    down, right, mirror = torch.randint(0, 2 * pad + 1, (3,), generator=generator).tolist()
    cut = wide[:, :, down : down + CANVAS, right : right + CANVAS].permute(0, 2, 3, 1)
    return cut.flip(2) if mirror % 2 else cut


def fit_captioner(
    pool: Captioned, budget: Budget, *, tokenizer: BertTokenizer, seed: int
) -> BlipForConditionalGeneration:
    """Train a captioner; all captions of this world have the same number of tokens."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_blip(tokenizer).train()
    ids_NL = tokenizer([subject.caption for subject in pool.subjects], return_tensors="pt").input_ids
    images_NHWC = torch.from_numpy(pool.images_NHWC)
    adamw, schedule = optimiser(list(model.parameters()), 1.5e-3, budget.steps)
    for step, rows in enumerate(batches(len(ids_NL), budget.batch, budget.steps, generator)):
        pixels = judge_pixels(moved(images_NHWC[rows], generator))
        loss = model(pixel_values=pixels, input_ids=ids_NL[rows], labels=ids_NL[rows]).loss
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        schedule.step()
        if step % 100 == 0 or step == budget.steps - 1:
            logger.info("captioner step %d of %d: loss %.4f", step, budget.steps, loss.item())
    return model.eval()


def save_captioner(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write a transformers folder: weights as safetensors, tokenizer, image processor."""
    model.save_pretrained(folder)
    side = {"height": CANVAS, "width": CANVAS}
    BlipProcessor(BlipImageProcessorPil(size=side), tokenizer).save_pretrained(folder)


# --- accuracy ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def captions_of(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, images_NHWC: ImageArray) -> list[str]:
    """Generate a greedy caption of each image."""
    texts: list[str] = []
    for piece in torch.from_numpy(images_NHWC).split(64):
        ids = model.generate(pixel_values=judge_pixels(piece), max_new_tokens=MAX_TOKENS - 1, do_sample=False)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def accuracy(texts: Sequence[str], subjects: Sequence[Subject]) -> dict[str, float]:
    """Share of captions that name the visible subject, by part and complete; any other text is wrong."""
    right: Counter[str] = Counter()
    for text, subject in zip(texts, subjects, strict=True):
        try:
            named = world.parse_caption(text)
        except ValueError:
            continue
        right.update(part for part in PARTS if getattr(named, part) == getattr(subject, part))
        right["all"] += named == subject
    return {part: right[part] / len(subjects) for part in (*PARTS, "all")}


def make_captioner(base_dir: Path, out_dir: Path, budget: Budget, seed: int = SEED) -> dict[str, float]:
    """Train, save, and measure on samples for held-out prompts."""
    known = world.training_prompts()
    rng = np.random.default_rng(seed)
    prompts = [known[row] for row in rng.integers(0, len(known), budget.num_samples)]
    drawn = sampled(base_dir, prompts, seed=seed + 1, steps=TRAINING_SAMPLER_STEPS)
    made = rendered(budget.num_renderings, seed + 2)
    pool = Captioned(np.concatenate([drawn.images_NHWC, made.images_NHWC]), drawn.subjects + made.subjects)
    logger.info("%d of %d samples show something; %d renderings", len(drawn.subjects), len(prompts), len(made.subjects))
    tokenizer = make_caption_tokenizer()
    model = fit_captioner(pool, budget, tokenizer=tokenizer, seed=seed + 3)
    save_captioner(model, tokenizer, out_dir)
    heldout = sampled(base_dir, world.heldout_prompts(), seed=seed + 4, steps=20)
    return accuracy(captions_of(model, tokenizer, heldout.images_NHWC), heldout.subjects)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, make the captioner, print its accuracy as JSON."""
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Make the captioner of the shapes world.")
    parser.add_argument("--shapes-dir", type=Path, default=folder, help="folder with base/")
    parser.add_argument("--out", type=Path, default=folder / "captioner", help="folder that gets the captioner")
    found = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.use_deterministic_algorithms(True)
    print(json.dumps(make_captioner(found.shapes_dir / "base", found.out, Budget())))


if __name__ == "__main__":
    main()
