"""Make the preference pairs of the shapes world: base-model samples, labelled by simulated annotators.

    python examples/shapes/make_pairs.py

writes `pairs/train-0000k-of-00003.parquet` in the Pick-a-Pic v2 schema, `prompts.tsv`, the held-out prompts, and
`training_prompts.txt`, all the others. A few rows contain faults that real feeds have, added on purpose; `plant_dirt`
lists them.
"""

import argparse
import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import world
from drawing import ImageArray
from sampling import load_pipeline, sample

logger = logging.getLogger(__name__)

NUM_SHARDS = 3
ANNOTATORS: tuple[tuple[str, str], ...] = tuple(
    (f"annotator-{index:02d}", group)
    for index, group in enumerate(["bold"] * 5 + ["tidy"] * 4 + ["gentle"] * 3, start=1)
)
ANNOTATOR_NOISE = world.Noise(tie_margin=0.02, temperature=0.04)
"""Gives about one tie and one mistake in ten, as two samples of one model differ little."""
_MODEL = "plumbline-shapes-base"
_FIRST_DAY = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.string()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Pair:
    """One comparison, before it becomes a Pick-a-Pic row."""

    caption: str
    bytes_0: bytes
    bytes_1: bytes
    label_0: float
    label_1: float
    user_id: str
    created_at: datetime


def _uid(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()[:32]


def to_row(pair: Pair, index: int, num_for_prompt: int) -> dict[str, object]:
    """The pair as a row of the Pick-a-Pic v2 schema."""
    uid_0, uid_1 = _uid(pair.bytes_0), _uid(pair.bytes_1)
    best = uid_0 if pair.label_0 > pair.label_1 else uid_1 if pair.label_1 > pair.label_0 else "tie"
    return {
        "are_different": uid_0 != uid_1,
        "best_image_uid": best,
        "caption": pair.caption,
        "created_at": pair.created_at.replace(tzinfo=None),
        "has_label": True,
        "image_0_uid": uid_0,
        "image_0_url": f"https://images.example.org/shapes/{uid_0}.png",
        "image_1_uid": uid_1,
        "image_1_url": f"https://images.example.org/shapes/{uid_1}.png",
        "jpg_0": pair.bytes_0,
        "jpg_1": pair.bytes_1,
        "label_0": pair.label_0,
        "label_1": pair.label_1,
        "model_0": _MODEL,
        "model_1": _MODEL,
        "ranking_id": index,
        "user_id": pair.user_id,
        "num_example_per_prompt": num_for_prompt,
        "__index_level_0__": index,
    }


def label_pairs(prompts: Sequence[str], first: ImageArray, second: ImageArray, seed: int) -> list[Pair]:
    """Let annotators, in random turns, label one pair for each prompt."""
    rng = np.random.default_rng(seed)
    pairs, now = [], _FIRST_DAY
    for prompt, image_0, image_1 in zip(prompts, first, second, strict=True):
        user_id, group = ANNOTATORS[int(rng.integers(len(ANNOTATORS)))]
        label = world.annotate((image_0, image_1), prompt, group, rng=rng, noise=ANNOTATOR_NOISE)
        now += timedelta(minutes=float(rng.uniform(1, 40)))
        png_0, png_1 = world.encode_png(image_0), world.encode_png(image_1)
        pairs.append(Pair(prompt, png_0, png_1, label, 1.0 - label, user_id, now))
    return pairs


def plant_dirt(pairs: Sequence[Pair]) -> dict[str, Pair]:
    """Make faulty rows by the kind of fault, each from another good pair, to be added to the good ones.

    The contradiction and the duplicate repeat a pair that stays among the good ones, one with a clear preference.
    """
    clear = [pair for pair in pairs if pair.label_0 != 0.5]
    donors = [clear[index] for index in np.linspace(0, len(clear) - 1, 12).astype(int)]
    flipped = replace(donors[7], label_0=donors[7].label_1, label_1=donors[7].label_0)
    return {
        "truncated_image": replace(donors[0], bytes_0=donors[0].bytes_0[: len(donors[0].bytes_0) // 2]),
        "undecodable_image": replace(donors[1], bytes_1=b"this is no picture"),
        "empty_image": replace(donors[2], bytes_1=b""),
        "empty_caption": replace(donors[3], caption=""),
        "blank_caption": replace(donors[4], caption="   "),
        "labels_do_not_sum_to_one": replace(donors[5], label_0=1.0, label_1=1.0),
        "illegal_label": replace(donors[6], label_0=0.7, label_1=0.3),
        "contradictory_duplicate": flipped,
        "identical_images_preferred": replace(donors[8], bytes_1=donors[8].bytes_0, label_0=1.0, label_1=0.0),
        "exact_duplicate": donors[9],
        "heldout_prompt": replace(donors[10], caption=world.heldout_prompts()[0]),
        "overlong_caption": replace(donors[11], caption=" ".join(["a small red circle and"] * 400)),
    }


def write_shards(pairs: Sequence[Pair], folder: Path) -> None:
    """Write the pairs in time order as parquet shards of about equal size."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(pairs, key=lambda pair: pair.created_at)
    counts: dict[str, int] = {}
    for pair in ordered:
        counts[pair.caption] = counts.get(pair.caption, 0) + 1
    rows = [to_row(pair, index, counts[pair.caption]) for index, pair in enumerate(ordered)]
    for shard, indices in enumerate(np.array_split(np.arange(len(rows)), NUM_SHARDS)):
        table = pa.Table.from_pylist([rows[index] for index in indices], schema=SCHEMA)
        pq.write_table(table, folder / f"train-{shard:05d}-of-{NUM_SHARDS:05d}.parquet", compression="zstd")


def write_prompts(path: Path) -> None:
    """Write the held-out evaluation prompts with their category, the shape."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerow(["prompt", "category"])
        writer.writerows([prompt, world.parse_caption(prompt).shape] for prompt in world.heldout_prompts())


def write_training_prompts(path: Path) -> None:
    """Write every prompt that is not held out, one per line: the prompts of online recipes."""
    path.write_text("".join(f"{prompt}\n" for prompt in world.training_prompts()), encoding="utf-8")


def choose_prompts(count: int, seed: int) -> list[str]:
    """Training prompts in random order; they repeat once all were used."""
    rng = np.random.default_rng(seed)
    prompts = world.training_prompts()
    rounds = [rng.permutation(len(prompts)) for _ in range(-(-count // len(prompts)))]
    return [prompts[index] for index in np.concatenate(rounds)[:count]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample, label, add faulty rows, write."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Make the preference pairs of the shapes world.")
    parser.add_argument("--base", type=Path, default=here / "base", help="pipeline folder to sample from")
    parser.add_argument("--out", type=Path, default=here, help="folder that gets pairs/ and prompts.tsv")
    parser.add_argument("--num-pairs", type=int, default=600, help="good pairs (default 600)")
    parser.add_argument("--seed", type=int, default=101, help="seed of prompts, samples and annotators (default 101)")
    found = parser.parse_args(arguments)
    prompts = choose_prompts(found.num_pairs, found.seed)
    pipeline = load_pipeline(found.base)
    offset = found.seed * 1_000_000
    seeds = [offset + index for index in range(len(prompts))]
    first = sample(pipeline, prompts, seeds)
    second = sample(pipeline, prompts, [seed + len(prompts) for seed in seeds])
    pairs = label_pairs(prompts, first, second, found.seed)
    dirt = plant_dirt(pairs)
    write_shards([*pairs, *dirt.values()], found.out / "pairs")
    write_prompts(found.out / "prompts.tsv")
    write_training_prompts(found.out / "training_prompts.txt")
    ties = sum(pair.label_0 == 0.5 for pair in pairs)
    print(f"{len(pairs)} pairs, {ties} of them ties, and {len(dirt)} spoiled rows in {found.out / 'pairs'}")


if __name__ == "__main__":
    main()
