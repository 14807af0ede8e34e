"""The shapes world: its prompts, its pictures, and the hidden taste that the pipeline never sees.

The oracle scores an image for a prompt from pixels, so it can judge a model's drawings. Several groups of annotators
share a core (vivid, centred, clean, matching the prompt) and differ in the rest; `oracle_score` is the population's
mean.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from drawing import BACKGROUNDS, HUES, RADII, SHAPES, ImageArray, Scene, Subject, draw
from measure import Facts, expected_chroma, hue_distance, measure, unit_areas
from PIL import Image

NUM_HELDOUT = 200
_SPLIT_SEED = 20_240_611
_CAPTION = re.compile(r"^a (\w+) (\w+) (\w+) on a (\w+) background$")


@dataclass(frozen=True)
class Taste:
    """Weights that one group of annotators gives to each part; a negative weight is a dislike."""

    vivid: float
    centred: float
    crisp: float
    clean: float
    match: float


@dataclass(frozen=True)
class Group:
    """Annotators of one taste, and their share of the population."""

    taste: Taste
    share: float


GROUPS: Mapping[str, Group] = {
    "bold": Group(Taste(vivid=0.90, centred=0.20, crisp=0.30, clean=0.20, match=0.60), share=0.40),
    "tidy": Group(Taste(vivid=0.40, centred=0.80, crisp=0.30, clean=0.20, match=0.60), share=0.35),
    "gentle": Group(Taste(vivid=0.50, centred=0.45, crisp=-0.35, clean=0.20, match=0.60), share=0.25),
}


@dataclass(frozen=True)
class Noise:
    """Labelling errors: scores that differ by less than `tie_margin` are a tie, the rest is a logistic choice."""

    tie_margin: float = 0.05
    temperature: float = 0.06
    lapse: float = 0.03
    """Chance of a click that is unrelated to the images, either way."""


def subjects() -> tuple[Subject, ...]:
    """List every subject that a caption can name, in a fixed order."""
    return tuple(
        Subject(size, colour, shape, background)
        for size in RADII
        for colour in HUES
        for shape in SHAPES
        for background in BACKGROUNDS
    )


def all_prompts() -> tuple[str, ...]:
    """List every caption of the world, in a fixed order."""
    return tuple(subject.caption for subject in subjects())


@lru_cache(maxsize=1)
def heldout_prompts() -> tuple[str, ...]:
    """The evaluation prompts, which never appear in training pairs; deterministic."""
    prompts = all_prompts()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(prompts))
    return tuple(prompts[index] for index in sorted(order[:NUM_HELDOUT]))


def training_prompts() -> tuple[str, ...]:
    """List all prompts except the held-out ones."""
    heldout = set(heldout_prompts())
    return tuple(prompt for prompt in all_prompts() if prompt not in heldout)


def parse_caption(caption: str) -> Subject:
    """Parse a caption. Raises ValueError for text that is not a caption of this world."""
    found = _CAPTION.match(caption)
    tables: tuple[Sequence[str], ...] = (tuple(RADII), tuple(HUES), SHAPES, tuple(BACKGROUNDS))
    if found is None or any(word not in table for word, table in zip(found.groups(), tables, strict=True)):
        raise ValueError(
            f"Not a caption of the shapes world: {caption!r}. Expected 'a SIZE COLOUR SHAPE on a BACKGROUND "
            f"background' with words from {[list(table) for table in tables]}."
        )
    return Subject(*found.groups())


def random_scene(subject: Subject, rng: np.random.Generator) -> Scene:
    """Draw a scene of the subject, with everything that the caption leaves open at random."""
    reach = min(12.0, 31.0 - 1.3 * RADII[subject.size])
    x, y = rng.uniform(-reach, reach, size=2)
    return Scene(
        subject=subject,
        vividness=float(rng.uniform(0.3, 1.0)),
        centre_x=32.0 + float(x),
        centre_y=32.0 + float(y),
        rotation=float(rng.uniform(-20.0, 20.0)),
        softness=float(np.exp(rng.uniform(0.0, np.log(6.0)))),
        radius_factor=float(rng.uniform(0.93, 1.07)),
    )


def render(prompts: Sequence[str], rng: np.random.Generator) -> ImageArray:
    """Render one random image [N, H, W, 3] for each prompt."""
    return draw([random_scene(parse_caption(prompt), rng) for prompt in prompts])


def encode_png(image: ImageArray) -> bytes:
    """Encode the image as PNG bytes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _match(facts: Facts, subject: Subject) -> float:
    """Score the match between the picture and the caption, 0..1."""
    colour = np.exp(-((hue_distance(facts.foreground, subject.colour) / 16.0) ** 2))
    others = max(score for shape, score in facts.shape_scores.items() if shape != subject.shape)
    shape = np.clip(0.5 + 5.0 * (facts.shape_scores[subject.shape] - others), 0.0, 1.0)
    radius = np.sqrt(facts.area / unit_areas()[subject.shape])
    size = np.exp(-((np.log(radius / RADII[subject.size]) / 0.22) ** 2))
    off = np.linalg.norm(np.subtract(facts.background, BACKGROUNDS[subject.background]))
    background = np.exp(-((off / 40.0) ** 2))
    return float(0.30 * colour + 0.35 * shape + 0.15 * size + 0.20 * background)


def qualities(image: ImageArray, prompt: str) -> dict[str, float]:
    """The parts of taste, each 0..1: vivid, centred, crisp, clean, match. Image is uint8 [H, W, 3]."""
    subject, facts = parse_caption(prompt), measure(image)
    if not facts.visible:
        return {"vivid": 0.0, "centred": 0.0, "crisp": 0.0, "clean": 0.0, "match": 0.0}
    return {
        "vivid": float(np.clip(facts.chroma / expected_chroma(subject.colour) - 0.2, 0.0, 0.8) / 0.8),
        "centred": float(np.exp(-((facts.distance_from_centre / 8.0) ** 2))),
        "crisp": float(np.clip((5.0 - facts.edge_width) / 3.5, 0.0, 1.0)),
        "clean": float(np.clip(1.0 - facts.residual / 20.0, 0.0, 1.0)),
        "match": _match(facts, subject),
    }


def _weigh(parts: Mapping[str, float], taste: Taste) -> float:
    total = taste.vivid * parts["vivid"] + taste.centred * parts["centred"] + taste.crisp * parts["crisp"]
    return total + taste.clean * parts["clean"] + taste.match * parts["match"]


def group_score(image: ImageArray, prompt: str, group: str) -> float:
    """One group's score of an image [H, W, 3] for a prompt; a preferred image scores higher."""
    if group not in GROUPS:
        raise ValueError(f"Unknown annotator group {group!r}. Known: {', '.join(GROUPS)}.")
    return _weigh(qualities(image, prompt), GROUPS[group].taste)


def oracle_score(image: ImageArray, prompt: str) -> float:
    """The population's mean score of an image [H, W, 3] for a prompt."""
    parts = qualities(image, prompt)
    return sum(group.share * _weigh(parts, group.taste) for group in GROUPS.values())


def label_for(score_0: float, score_1: float, rng: np.random.Generator, noise: Noise | None = None) -> float:
    """A noisy annotator's label for image 0: 1 prefers it, 0 prefers the other, 0.5 is a tie."""
    noise = noise or Noise()
    difference = score_0 - score_1
    if abs(difference) < noise.tie_margin:
        return 0.5
    chance = noise.lapse + (1 - 2 * noise.lapse) / (1 + np.exp(-difference / noise.temperature))
    return float(rng.random() < chance)


def annotate(
    images: tuple[ImageArray, ImageArray],
    prompt: str,
    group: str,
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
) -> float:
    """Label two images [H, W, 3] as an annotator of the group: the label of image 0 in {0, 0.5, 1}."""
    return label_for(group_score(images[0], prompt, group), group_score(images[1], prompt, group), rng, noise)
