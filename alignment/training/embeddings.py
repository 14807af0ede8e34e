"""Comparisons of a snapshot as frozen CLIP embeddings, with their annotators. N counts comparisons, D an embedding.

    embeddings/
        train.safetensors   chosen_ND, rejected_ND, prompts_ND
        train.json          annotators and prompts, written last

Ties are left out: they carry no information about which image is closer to a user's taste.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from alignment.contracts.data import Split
from alignment.contracts.jobs import JobStoppedError
from alignment.data.pairs import open_split
from alignment.files.durable import write_json
from alignment.files.images import read_ground, rgb_image
from alignment.files.tensors import write_tensors
from alignment.rewards.clip_model import ClipModel

COLUMNS = ("pair_id", "prompt", "annotator_id", "image_chosen", "image_rejected", "is_tie")
READ_ROWS = 64


@dataclass(frozen=True)
class EmbeddedComparisons:
    """One split, without ties, in the order of its file."""

    chosen_ND: Tensor
    rejected_ND: Tensor
    prompts_ND: Tensor
    annotators: tuple[str, ...]
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.annotators)


def embed_split(
    snapshot_dir: Path, split: Split, clip: ClipModel, *, micro_batch: int, after_batch: Callable[[int], None]
) -> EmbeddedComparisons:
    """Embed a split's comparisons, `micro_batch` at a time; `after_batch` is called with the number done."""
    columns: dict[str, list[Tensor]] = {"chosen": [], "rejected": [], "prompts": []}
    annotators: list[str] = []
    prompts: list[str] = []
    file = open_split(snapshot_dir / f"{split}.parquet", COLUMNS)
    ground = read_ground(file.schema_arrow.metadata)
    for rows in _batches(_rows(file, split), micro_batch):
        for side in ("chosen", "rejected"):
            images = [rgb_image(row[f"image_{side}"], f"The image of pair {row['pair_id']}", ground) for row in rows]
            columns[side].append(clip.embed_images(images).cpu())
        columns["prompts"].append(_embed_prompts(clip, [row["prompt"] for row in rows]))
        annotators += [row["annotator_id"] or "" for row in rows]
        prompts += [row["prompt"] for row in rows]
        after_batch(len(annotators))
    if not annotators:
        empty_0D = torch.empty(0, 0)
        return EmbeddedComparisons(empty_0D, empty_0D, empty_0D, (), ())
    chosen_ND, rejected_ND, prompts_ND = (torch.cat(columns[name]).float() for name in columns)
    return EmbeddedComparisons(chosen_ND, rejected_ND, prompts_ND, tuple(annotators), tuple(prompts))


def num_comparisons(snapshot_dir: Path, split: Split) -> int:
    """Yield the comparisons of a split that are not ties."""
    ties = open_split(snapshot_dir / f"{split}.parquet", COLUMNS).read(columns=["is_tie"])["is_tie"].to_pylist()
    return len(ties) - sum(map(bool, ties))


def write_embeddings(comparisons: EmbeddedComparisons, folder: Path, split: Split) -> None:
    """Store the embeddings, so that a resumed run need not compute them again."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(comparisons, name) for name in ("chosen_ND", "rejected_ND", "prompts_ND")}
    write_tensors(folder / f"{split}.safetensors", tensors)
    write_json(folder / f"{split}.json", {"annotators": comparisons.annotators, "prompts": comparisons.prompts})


def read_embeddings(folder: Path, split: Split) -> EmbeddedComparisons | None:
    """Read what `write_embeddings` stored; None when it did not finish."""
    note = folder / f"{split}.json"
    if not note.is_file():
        return None
    words = json.loads(note.read_text(encoding="utf-8"))
    tensors = load_file(folder / f"{split}.safetensors")
    return EmbeddedComparisons(**tensors, annotators=tuple(words["annotators"]), prompts=tuple(words["prompts"]))


def _embed_prompts(clip: ClipModel, prompts: list[str]) -> Tensor:
    distinct = list(dict.fromkeys(prompts))
    row = {prompt: index for index, prompt in enumerate(distinct)}
    return clip.embed_texts(distinct).cpu()[[row[prompt] for prompt in prompts]]


def _rows(file: pq.ParquetFile, split: Split) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(batch_size=READ_ROWS, columns=list(COLUMNS)):
            yield from (row for row in batch.to_pylist() if not row["is_tie"])
    except (pa.ArrowException, OSError) as error:
        raise JobStoppedError("bad_data", f"{split}.parquet cannot be read: {error}") from error


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch
