"""Draw training pairs from prompt templates.

`python -m alignment.jobs.draw_pairs --spec DrawSpec.json --placement P.json --inputs DIR --out DIR`

DIR holds, by digest, the base and the prompts file. OUT gets pairs-00000.parquet and so on in the columns of Pick-a-Pic
v2, spec.json and, last, result.json. All processes divide the files; a killed run continues with the next file.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from PIL import Image

from alignment.backbones.drawing import drawing_of, to_images
from alignment.contracts.evaluation import ModelRef
from alignment.contracts.jobs import SPEC_FILE, Placement
from alignment.contracts.labelling import DrawnPairs, DrawSpec, fill_template
from alignment.data.prompt_lines import PromptLines
from alignment.evaluation.models import load_model
from alignment.evaluation.sampling import PNG_THREADS, ImageKey, TextStates, draw_batch, is_blank, png_bytes
from alignment.files.background import BackgroundWork, ahead
from alignment.files.durable import content_digest, write_json
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import device_of, start_processes
from alignment.jobs.shared_output import share_output
from alignment.statistics.prompts import EvalPrompt

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("has_label", pa.bool_()),
        ("user_id", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Drawing:
    """The inputs that every step of the job needs."""

    spec: DrawSpec
    placement: Placement
    paths: JobPaths
    state: PartialState
    prompts: PromptLines

    @property
    def num_pairs(self) -> int:
        """Prompts times seeds, before blank pairs are dropped."""
        return len(self.prompts) * len(self.spec.seeds)

    def shards(self) -> range:
        """Number of files to write."""
        return range((self.num_pairs + self.spec.shard_pairs - 1) // self.spec.shard_pairs)

    def file(self, shard: int) -> Path:
        """Path of a shard once it is complete."""
        return self.paths.out / f"pairs-{shard:05d}.parquet"

    def keys(self, shard: int) -> list[ImageKey]:
        """List the pairs of a file, prompt by prompt, each with its plain prompt."""
        first = shard * self.spec.shard_pairs
        numbers = range(first, min(first + self.spec.shard_pairs, self.num_pairs))
        cells = [divmod(number, len(self.spec.seeds)) for number in numbers]
        return [ImageKey(EvalPrompt(p, self.prompts[p], ""), self.spec.seeds[s]) for p, s in cells]

    def num_finished(self) -> int:
        """Count the files that any process has finished."""
        return sum(self.file(shard).is_file() for shard in self.shards())


def main(paths: JobPaths) -> None:
    """Draw this rank's files; rank 0 then writes the result."""
    spec = read_object(paths.spec, DrawSpec, what="draw spec")
    placement = read_object(paths.placement, Placement, what="placement")
    prompts = PromptLines(paths.input(spec.prompts_digest, "prompts file"))
    drawing = _Drawing(spec, placement, paths, start_processes(placement), prompts)
    rank, ranks = drawing.state.process_index, drawing.state.num_processes
    todo = [s for s in drawing.shards() if s % ranks == rank and not drawing.file(s).is_file()]
    with JobProgress(
        paths.out,
        total=len(drawing.shards()),
        unit="shards",
        done=drawing.num_finished(),
        enabled=drawing.state.is_main_process,
    ) as progress:
        _draw_shards(drawing, todo, progress)
        share_output(drawing.state, paths.out)
    if drawing.state.is_main_process:
        _finish(drawing)
    drawing.state.wait_for_everyone()


def _draw_shards(drawing: _Drawing, todo: Sequence[int], progress: JobProgress) -> None:
    """Draw some files; each is written while the next one is drawn."""
    pipeline = _load_base(drawing) if todo else None
    with BackgroundWork(threads=1) as writes:
        for shard in todo:
            rows = list(_draw_rows(drawing, pipeline, shard))
            writes.submit(
                [partial(_write_shard, rows, drawing.file(shard))],
                lambda: progress.update(drawing.num_finished(), "drawing"),
            )


def _load_base(drawing: _Drawing) -> Any:
    """Load the base's pipeline on this rank's device."""
    spec = drawing.spec
    return load_model(
        spec.backbone,
        drawing.paths.input(spec.base_digest, "base model"),
        ModelRef(kind="base", weights_digest=spec.base_digest),
        None,
        device=device_of(drawing.state),
        precision=spec.sampler.precision,
    )


class _DrawnPair(NamedTuple):
    """The images of a prompt and a seed with either template."""

    key: ImageKey
    chosen: Image.Image
    rejected: Image.Image


def _draw_rows(drawing: _Drawing, pipeline: Any, shard: int) -> Iterator[dict[str, Any]]:
    """Return the rows of a file. Images are compressed while the next ones are drawn."""
    compress = partial(_row_of_pair, drawing.spec)
    return ahead(compress, _draw_shard(drawing, pipeline, shard), threads=PNG_THREADS, limit=2 * PNG_THREADS)


def _row_of_pair(spec: DrawSpec, pair: _DrawnPair) -> dict[str, Any]:
    return row(spec, pair.key, png_bytes(pair.chosen), png_bytes(pair.rejected))


def _draw_shard(drawing: _Drawing, pipeline: Any, shard: int) -> Iterator[_DrawnPair]:
    """Draw the pairs of a file, without blank ones.

    Both images of a pair start from the noise of its prompt's index and seed.
    """
    texts = TextStates(drawing_of(pipeline))
    cells, size = drawing.keys(shard), max(1, drawing.placement.micro_batch // 2)
    for keys in (cells[start : start + size] for start in range(0, len(cells), size)):
        sides = [
            [ImageKey(EvalPrompt(k.prompt.index, fill_template(template, k.prompt.text), ""), k.seed) for k in keys]
            for template in (drawing.spec.chosen_template, drawing.spec.rejected_template)
        ]
        images_BCHW = draw_batch(
            pipeline,
            texts,
            [*sides[0], *sides[1]],
            sampler=drawing.spec.sampler,
            resolution=drawing.spec.backbone.resolution,
        )
        images = to_images(images_BCHW)
        for key, chosen, rejected in zip(keys, images[: len(keys)], images[len(keys) :], strict=True):
            if not (is_blank(chosen) or is_blank(rejected)):
                yield _DrawnPair(key, chosen, rejected)


def row(spec: DrawSpec, key: ImageKey, chosen: bytes, rejected: bytes) -> dict[str, Any]:
    """Return a pair with its plain prompt. The side of the chosen image is random, by prompt index and seed."""
    side = hashlib.sha256(f"{key.prompt.index}:{key.seed}".encode()).digest()[0] % 2
    generator = f"{spec.backbone.name} {spec.base_digest}"
    images = (chosen, rejected) if side == 0 else (rejected, chosen)
    return {
        "caption": key.prompt.text,
        **{"jpg_0": images[0], "jpg_1": images[1]},
        **{"label_0": 1.0 - side, "label_1": float(side), "has_label": True},
        "user_id": f"template {spec.chosen_template} over {spec.rejected_template}",
        **{"created_at": None, "model_0": generator, "model_1": generator},
        **{"source": spec.source, "licence": spec.licence},
    }


def _write_shard(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the file atomically."""
    beside = path.with_name(f".{path.name}.part")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), beside, row_group_size=32)
    beside.replace(path)


def _finish(drawing: _Drawing) -> None:
    """Build the result; ValueError when all pairs came out blank."""
    out, spec = drawing.paths.out, drawing.spec
    files = [drawing.file(shard) for shard in drawing.shards()]
    num_pairs = sum(int(pq.read_metadata(file).num_rows) for file in files)
    if not num_pairs:
        raise ValueError(
            f"All {drawing.num_pairs} pairs of {spec.source!r} came out blank. Check the base model and the sampler."
        )
    write_json(out / SPEC_FILE, spec.model_dump(mode="json"))
    result = DrawnPairs(
        uri="",
        content_digest=content_digest(out, [*files, out / SPEC_FILE]),
        spec_digest=spec.digest,
        num_pairs=num_pairs,
        num_blank=drawing.num_pairs - num_pairs,
    )
    write_result(out, result)
    logger.info("drew %d pairs of %s, %d blank", num_pairs, spec.source, result.num_blank)


if __name__ == "__main__":
    run_job(main)
