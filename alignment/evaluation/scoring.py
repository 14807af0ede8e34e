"""Score images: a model's sampled grid, and the calibration pairs that measure a judge's agreement with people.

Work is divided over ranks. Each function here does one rank's part and returns plain rows that can be gathered.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from alignment.evaluation.sampling import ImageKey, is_blank
from alignment.files.images import read_ground, rgb_image
from alignment.rewards.interface import Scorer
from alignment.statistics.human_pairs import JudgedPair, ScoredPair

CALIBRATION_FILE = "calibration.parquet"
CALIBRATION_COLUMNS = ["pair_id", "prompt", "image_chosen", "image_rejected", "is_tie"]
READ_ROWS = 16


class ScoreRow(NamedTuple):
    """The score of one image under one scorer."""

    sample_digest: str
    scorer: str
    prompt_index: int
    seed: int
    score: float
    shuffled: bool = False
    """True when the image was scored against another prompt of the list."""


@dataclass(frozen=True)
class Shuffle:
    """Images to score against wrong prompts as well: one seed, some models and some scorers, to limit the cost."""

    prompts: Mapping[int, str]
    """Prompt index to the index of the other prompt."""
    seed: int
    folders: frozenset[str]
    """Digests of sample folders."""
    scorers: frozenset[str]


class CalibrationRow(NamedTuple):
    """The scores of one human pair under one judge."""

    judge: str
    pair_id: str
    score_chosen: float
    score_rejected: float
    is_tie: bool

    def judged(self) -> JudgedPair:
        """Convert to the row that the agreement statistics read."""
        return JudgedPair(self.judge, ScoredPair(*self[1:]))


class _CalibrationPair(NamedTuple):
    """A human pair: the two images, and whether the annotator had no preference."""

    pair_id: str
    prompt: str
    chosen: Image.Image
    rejected: Image.Image
    is_tie: bool


def score_samples(
    scorers: Mapping[str, Scorer],
    folders: Mapping[str, Path],
    keys: Sequence[ImageKey],
    *,
    micro_batch: int,
    shuffle: Shuffle | None = None,
    after_batch: Callable[[int], None] = lambda done: None,
) -> tuple[list[ScoreRow], list[str]]:
    """Score every given image of every model under every scorer; also return the file names of blank images.

    `folders` maps a sample folder's digest to its path. All models' images of a prompt are scored together, so each
    image is read once and each scorer encodes each prompt once.
    """
    rows: list[ScoreRow] = []
    blank: list[str] = []
    batch = max(1, micro_batch // max(1, len(folders)))
    for start in range(0, len(keys), batch):
        cells = [(digest, key) for key in keys[start : start + batch] for digest in folders]
        images = [read_image(folders[digest] / key.file_name) for digest, key in cells]
        blank += [f"{d}/{key.file_name}" for (d, key), image in zip(cells, images, strict=True) if is_blank(image)]
        prompts = [key.prompt.text for _, key in cells]
        for name, scorer in scorers.items():
            scores = scorer.score(images, prompts).tolist()
            rows += [
                ScoreRow(digest, name, key.prompt.index, key.seed, score)
                for (digest, key), score in zip(cells, scores, strict=True)
            ]
        if shuffle is not None:
            rows += _score_shuffled(scorers, cells, images, shuffle)
        after_batch(start + len(keys[start : start + batch]))
    return rows, blank


def score_prompts(
    scorers: Mapping[str, Scorer],
    folders: Mapping[str, Path],
    keys: Sequence[ImageKey],
) -> list[ScoreRow]:
    """Score with scorers that compare the images of a prompt: all given seeds of one prompt and one model at a time.

    `keys` must hold every seed of each of its prompts, one prompt after the other.
    """
    rows: list[ScoreRow] = []
    for prompt, group in groupby(keys, key=lambda key: key.prompt):
        own = list(group)
        for digest, folder in folders.items():
            images = [read_image(folder / key.file_name) for key in own]
            for name, scorer in scorers.items():
                scores = scorer.score(images, [prompt.text] * len(own)).tolist()
                rows += [
                    ScoreRow(digest, name, prompt.index, key.seed, score)
                    for key, score in zip(own, scores, strict=True)
                ]
    return rows


def _score_shuffled(
    scorers: Mapping[str, Scorer],
    cells: Sequence[tuple[str, ImageKey]],
    images: Sequence[Image.Image],
    shuffle: Shuffle,
) -> list[ScoreRow]:
    """Score the images of the shuffled models and seed against the other prompts."""
    chosen = [
        (digest, key, image)
        for (digest, key), image in zip(cells, images, strict=True)
        if digest in shuffle.folders and key.seed == shuffle.seed and key.prompt.index in shuffle.prompts
    ]
    if not chosen:
        return []
    prompts = [shuffle.prompts[key.prompt.index] for _, key, _ in chosen]
    rows = []
    for name in sorted(shuffle.scorers & set(scorers)):
        scores = scorers[name].score([image for _, _, image in chosen], prompts).tolist()
        rows += [
            ScoreRow(digest, name, key.prompt.index, key.seed, score, shuffled=True)
            for (digest, key, _), score in zip(chosen, scores, strict=True)
        ]
    return rows


def score_calibration(
    judges: Mapping[str, Scorer],
    pairs: Iterator[_CalibrationPair],
    *,
    micro_batch: int,
    after_batch: Callable[[int], None] = lambda done: None,
) -> list[CalibrationRow]:
    """Score both images of each pair under every judge. Pairs are read one by one, so memory stays constant."""
    rows: list[CalibrationRow] = []
    done = 0
    while batch := _next_pairs(pairs, max(1, micro_batch // 2)):
        images = [image for pair in batch for image in (pair.chosen, pair.rejected)]
        prompts = [pair.prompt for pair in batch for _ in range(2)]
        for name, judge in judges.items():
            scores = judge.score(images, prompts).tolist()
            rows += [
                CalibrationRow(name, pair.pair_id, chosen, rejected, pair.is_tie)
                for pair, chosen, rejected in zip(batch, scores[0::2], scores[1::2], strict=True)
            ]
        done += len(batch)
        after_batch(done)
    return rows


def num_calibration_pairs(snapshot_dir: Path) -> int:
    """Count the rows of the calibration split. ValueError when the snapshot has no such file or it is not parquet."""
    return int(_calibration_file(snapshot_dir).metadata.num_rows)


def calibration_pairs(snapshot_dir: Path, *, rank: int, world_size: int) -> Iterator[_CalibrationPair]:
    """Yield every `world_size`-th pair of the calibration split from `rank` on, including ties."""
    file = _calibration_file(snapshot_dir)
    missing = [name for name in CALIBRATION_COLUMNS if name not in file.schema_arrow.names]
    if missing:
        path = snapshot_dir / CALIBRATION_FILE
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}. Make the snapshot again.")
    ground = read_ground(file.schema_arrow.metadata)
    index = 0
    for batch in file.iter_batches(batch_size=READ_ROWS, columns=CALIBRATION_COLUMNS):
        for row in batch.to_pylist():
            if index % world_size == rank:
                what = f"The image of pair {row['pair_id']}"
                yield _CalibrationPair(
                    pair_id=row["pair_id"],
                    prompt=row["prompt"],
                    chosen=rgb_image(row["image_chosen"], what, ground),
                    rejected=rgb_image(row["image_rejected"], what, ground),
                    is_tie=bool(row["is_tie"]),
                )
            index += 1


def _calibration_file(snapshot_dir: Path) -> pq.ParquetFile:
    path = snapshot_dir / CALIBRATION_FILE
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"The calibration split {path} cannot be read: {error}. Make the snapshot again.") from error


def _next_pairs(pairs: Iterator[_CalibrationPair], most: int) -> list[_CalibrationPair]:
    return [pair for _, pair in zip(range(most), pairs, strict=False)]


def read_image(path: Path) -> Image.Image:
    """Read and decode a sampled image; ValueError names the file."""
    try:
        return rgb_image(path.read_bytes(), f"The image {path}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
