"""Variants of the world's snapshot for training: pairs of a style the base does not draw, a weaker model's, captions.

None of it is committed as data: each variant is made again from its seed.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from candidates import noisy
from drawing import BACKGROUNDS, HUES, RADII, SHAPES, ImageArray, Scene, Subject, draw
from make_pairs import Pair, choose_prompts, label_pairs
from measure import hue_distance, measure, unit_areas
from PIL import Image
from sampling import load_pipeline, sample
from world import encode_png, parse_caption

from pipelines.intake.snapshot import SNAPSHOT_SCHEMA

MISMATCHED_PAIRS = 384
WEAKER_PAIRS = 384
WEAKER_NOISE = 0.3
"""Noise on the denoiser's weights, in standard deviations of each tensor: the oracle gives the weaker model's images
1.14 on average and the base's 1.38 (48 prompts), and single images differ by 0.24, so that the better of two of the
weaker model's is still worse than one of the base's."""
_SPLITS = ("train", "calibration", "test")
Captioner = Callable[[str, bytes, bytes, np.random.Generator], tuple[str, str]]
"""(prompt, chosen image, rejected image, rng) -> captions of the two."""


# --- a style that is not the base's -----------------------------------------------------------------------------------


def styled(prompts: Sequence[str]) -> ImageArray:
    """Render the prompts in one house style: pure colour, razor-sharp edges, upright in the very centre."""
    return draw([Scene(parse_caption(prompt)) for prompt in prompts])


def mismatched_snapshot(out: Path, base: Path, seed: int = 404) -> Path:
    """Pairs of a chosen image by the renderer, in the house style, and a rejected one by the base."""
    if not (out / "train.parquet").is_file():
        prompts = choose_prompts(MISMATCHED_PAIRS, seed)
        rejected = sample(load_pipeline(base), prompts, [seed * 1_000_000 + index for index in range(len(prompts))])
        rows = [
            {
                "pair_id": f"{index:064x}",
                "prompt": prompt,
                "caption_chosen": prompt,
                "caption_rejected": prompt,
                "image_chosen": encode_png(chosen),
                "image_rejected": encode_png(other),
                "is_tie": False,
                "annotator_id": "style",
                "source": "house_style",
                "licence": "CC0-1.0",
            }
            for index, (prompt, chosen, other) in enumerate(zip(prompts, styled(prompts), rejected, strict=True))
        ]
        _write(
            out, {split: pa.Table.from_pylist(rows if split == "train" else [], SNAPSHOT_SCHEMA) for split in _SPLITS}
        )
    return out


# --- a model weaker than the base -------------------------------------------------------------------------------------


def weaker_snapshot(out: Path, base: Path, seed: int = 405) -> Path:
    """Pairs that a weaker model draws and the world's annotators label, as they label the base's; ties are left out."""
    if not (out / "train.parquet").is_file():
        prompts = choose_prompts(WEAKER_PAIRS, seed)
        pipeline = load_pipeline(base)
        pipeline.unet.load_state_dict(noisy(pipeline.unet.state_dict(), WEAKER_NOISE, seed))
        seeds = [seed * 1_000_000 + index for index in range(2 * len(prompts))]
        first, second = (sample(pipeline, prompts, seeds[start::2]) for start in (0, 1))
        rows = decided_rows(label_pairs(prompts, first, second, seed), source="weaker_model")
        _write(
            out, {split: pa.Table.from_pylist(rows if split == "train" else [], SNAPSHOT_SCHEMA) for split in _SPLITS}
        )
    return out


def decided_rows(pairs: Sequence[Pair], source: str) -> list[dict[str, object]]:
    """Rows of a snapshot for the pairs with a preference."""
    rows = []
    for index, pair in enumerate(pairs):
        if pair.label_0 != pair.label_1:
            images = (pair.bytes_0, pair.bytes_1) if pair.label_0 > pair.label_1 else (pair.bytes_1, pair.bytes_0)
            texts = dict.fromkeys(("prompt", "caption_chosen", "caption_rejected"), pair.caption)
            facts = {"annotator_id": pair.user_id, "source": source, "licence": "CC0-1.0", "is_tie": False}
            rows.append(
                texts | facts | {"pair_id": f"{index:064x}", "image_chosen": images[0], "image_rejected": images[1]}
            )
    return rows


# --- captions ---------------------------------------------------------------------------------------------------------


def captioned_snapshot(source: Path, out: Path, captioner: Captioner, seed: int = 17) -> Path:
    """The same pairs with captions of their images."""
    if not (out / "train.parquet").is_file():
        rng = np.random.default_rng(seed)
        _write(
            out, {split: _captioned(pq.read_table(source / f"{split}.parquet"), captioner, rng) for split in _SPLITS}
        )
    return out


def describe(image: bytes, prompt: str) -> str:
    """Caption an image from its pixels alone; return the prompt when nothing is visible.

    Each word is the closest of the world's: the result of a captioner whose only errors are those of the measurement.
    """
    facts = measure(np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.uint8))
    if not facts.visible:
        return prompt
    shape = max(SHAPES, key=lambda name: facts.shape_scores[name])
    radius = np.sqrt(facts.area / unit_areas()[shape])
    return Subject(
        size=min(RADII, key=lambda name: abs(np.log(radius / RADII[name]))),
        colour=min(HUES, key=lambda name: hue_distance(facts.foreground, name)),
        shape=shape,
        background=min(
            BACKGROUNDS, key=lambda name: float(np.linalg.norm(np.subtract(facts.background, BACKGROUNDS[name])))
        ),
    ).caption


def perturbed(caption: str, rng: np.random.Generator) -> str:
    """The caption with one of its four words replaced by another of the same kind."""
    subject = parse_caption(caption)
    kind = ("size", "colour", "shape", "background")[int(rng.integers(4))]
    words = {"size": tuple(RADII), "colour": tuple(HUES), "shape": SHAPES, "background": tuple(BACKGROUNDS)}[kind]
    others = [word for word in words if word != getattr(subject, kind)]
    return replace(subject, **{kind: others[int(rng.integers(len(others)))]}).caption


def captioning(prompt: str, chosen: bytes, rejected: bytes, rng: np.random.Generator) -> tuple[str, str]:
    """DCPO-c: each image with a caption of its visible content."""
    del rng
    return describe(chosen, prompt), describe(rejected, prompt)


def perturbation(prompt: str, chosen: bytes, rejected: bytes, rng: np.random.Generator) -> tuple[str, str]:
    """DCPO-p: the chosen image under the prompt, the rejected one under a perturbed prompt."""
    del chosen, rejected
    return prompt, perturbed(prompt, rng)


def hybrid(prompt: str, chosen: bytes, rejected: bytes, rng: np.random.Generator) -> tuple[str, str]:
    """DCPO-h: captions of both, the rejected one's perturbed."""
    own, other = captioning(prompt, chosen, rejected, rng)
    return own, perturbed(other, rng)


CAPTIONERS: dict[str, Captioner] = {"captioning": captioning, "perturbation": perturbation, "hybrid": hybrid}


def _captioned(table: pa.Table, captioner: Captioner, rng: np.random.Generator) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        captions = captioner(row["prompt"], row["image_chosen"], row["image_rejected"], rng)
        row["caption_chosen"], row["caption_rejected"] = captions
    return pa.Table.from_pylist(rows, SNAPSHOT_SCHEMA)


def _write(out: Path, tables: dict[str, pa.Table]) -> None:
    """Written last: train.parquet marks the folder as complete."""
    out.mkdir(parents=True, exist_ok=True)
    for split in reversed(_SPLITS):
        pq.write_table(tables[split], out / f"{split}.parquet", row_group_size=64)
