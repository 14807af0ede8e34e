"""Compare two sets of images with the oracle, prompt by prompt.

    python examples/shapes/check_oracle.py IMAGES_A IMAGES_B PROMPTS.tsv

Each folder holds `{prompt_index:04d}_{seed}.png`, the index being the row of PROMPTS.tsv (after its header). Images
with the same name are compared. Prints JSON: the share of prompts on which A is better (ties half) and its interval.
"""

import argparse
import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from drawing import ImageArray
from PIL import Image
from world import oracle_score

logger = logging.getLogger(__name__)

_RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """Win rate of A over B with its 95 % interval over prompts."""

    win_rate: float
    low: float
    high: float
    num_prompts: int


def compare(images_a: Sequence[ImageArray], images_b: Sequence[ImageArray], prompts: Sequence[str]) -> Comparison:
    """Compare images made for the same prompts (and seeds), by position.

    The unit is the prompt: scores of its seeds are averaged first, a draw counts half, and the interval is a
    percentile bootstrap over prompts.
    """
    if not prompts or not len(images_a) == len(images_b) == len(prompts):
        raise ValueError(
            f"Each prompt needs one image of A and one of B, got {len(images_a)} and {len(images_b)} images for "
            f"{len(prompts)} prompts."
        )
    gains: dict[str, list[float]] = {}
    for image_a, image_b, prompt in zip(images_a, images_b, prompts, strict=True):
        gains.setdefault(prompt, []).append(oracle_score(image_a, prompt) - oracle_score(image_b, prompt))
    wins = np.asarray([0.5 + 0.5 * np.sign(round(float(np.mean(gain)), 9)) for gain in gains.values()])
    rng = np.random.default_rng(0)
    resampled = wins[rng.integers(0, len(wins), (_RESAMPLES, len(wins)))].mean(1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Comparison(float(wins.mean()), float(low), float(high), len(wins))


def read_prompts(path: Path) -> list[str]:
    """Read the `prompt` column of a tab-separated prompts file."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        if "prompt" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column 'prompt'; its header reads {rows.fieldnames}.")
        return [row["prompt"] for row in rows]


def _load(path: Path) -> ImageArray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def compare_folders(folder_a: Path, folder_b: Path, prompts: Sequence[str]) -> Comparison:
    """Compare the images whose names are in both folders."""
    names_a, names_b = ({path.name for path in folder.glob("*.png")} for folder in (folder_a, folder_b))
    names = sorted(names_a & names_b)
    if not names:
        raise ValueError(f"No image name is in both {folder_a} ({len(names_a)}) and {folder_b} ({len(names_b)}).")
    if names_a != names_b:
        logger.warning("%d images have no counterpart and are left out", len(names_a ^ names_b))
    rows = [int(name.partition("_")[0]) for name in names]
    if max(rows) >= len(prompts):
        raise ValueError(f"Image {names[-1]} names prompt {max(rows)}, but there are {len(prompts)} prompts.")
    images_a, images_b = ([_load(folder / name) for name in names] for folder in (folder_a, folder_b))
    return compare(images_a, images_b, [prompts[row] for row in rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, compare, print JSON."""
    parser = argparse.ArgumentParser(description="Compare two sets of images with the oracle.")
    parser.add_argument("images_a", type=Path, help="folder of {prompt_index:04d}_{seed}.png")
    parser.add_argument("images_b", type=Path, help="folder to compare with")
    parser.add_argument("prompts", type=Path, help="tab-separated file with a column 'prompt'")
    found = parser.parse_args(arguments)
    try:
        result = compare_folders(found.images_a, found.images_b, read_prompts(found.prompts))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
