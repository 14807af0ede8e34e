"""Measure CPU time and peak memory of each stage of intake at two numbers of pairs, ten times apart.

Shards have 1,000 pairs of 64-pixel JPEGs; every image and prompt is different. Each stage runs as its command in a new
process. Its time is the CPU time of the process and its decoding processes, its memory the largest of one of them. The
goal is memory at the larger number within 1.3 times that at the smaller, and time within 1.3 times a linear growth.

Run `python benchmarks/intake_scale.py [PAIRS]`; PAIRS is the smaller number, 10,000 by default, which takes about ten
minutes on two cores.
"""

import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ingest import PROJECT
from PIL import Image

ROOT = Path(__file__).parents[1]
ROWS_OF_A_SHARD = 1_000
FACTOR = 10
GOAL = 1.3
STAGES = ("ingest", "validate", "snapshot", "snapshot again")
WORDS = ("red", "old", "small", "cat", "house", "river", "at night", "in oil", "on snow", "from above", "city", "ship")


def main() -> None:
    """Print a line for each stage and number of pairs, then the ratios; or measure one stage for another process."""
    if sys.argv[1:2] == ["--stage"]:
        print(json.dumps(_stage(sys.argv[2:])))
        return
    fewer = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    measured = {}
    for pairs in (fewer, fewer * FACTOR):
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), pairs)
            for stage in STAGES:
                measured[pairs, stage] = _measure(Path(folder), stage)
                print(
                    f"{pairs:8,} pairs  {stage:15} {measured[pairs, stage][0]:8.1f} CPU-s"
                    f" {measured[pairs, stage][1]:8.0f} MiB",
                    flush=True,
                )
    for stage in STAGES:
        few, many = measured[fewer, stage], measured[fewer * FACTOR, stage]
        print(
            f"{stage:15} time {many[0] / few[0] / FACTOR:.2f} times linear, memory {many[1] / few[1]:.2f} (goal {GOAL})"
        )


def _measure(folder: Path, stage: str) -> tuple[float, float]:
    """Return CPU-seconds and peak memory in MiB of a command in a new process."""
    words = [sys.executable, __file__, "--stage", str(folder / "projects/bench.toml"), stage.split()[0]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PLUMBLINE_STATE_DIR": str(folder / "state")}
    done = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
    seconds, mebibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, mebibytes


def _stage(words: list[str]) -> tuple[float, float]:
    project, command = words
    subprocess.run(
        [sys.executable, "-m", "pipelines.commands.cli", command, project],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _write(folder: Path, pairs: int) -> None:
    project = folder / "projects"
    (project / "pairs").mkdir(parents=True)
    (project / "bench.toml").write_text(PROJECT.format(folder="pairs"))
    (project / "prompts.tsv").write_text("prompt\tcategory\na held-out prompt of no pair\tany\n")
    for first in range(0, pairs, ROWS_OF_A_SHARD):
        rows = [_row(number) for number in range(first, min(first + ROWS_OF_A_SHARD, pairs))]
        pq.write_table(pa.Table.from_pylist(rows), project / f"pairs/part-{first:07d}.parquet")


def _row(number: int) -> dict[str, object]:
    random = np.random.default_rng(number)
    label = float(random.integers(2))
    return {
        "are_different": True,
        "best_image_uid": f"uid-{number}",
        "caption": f"{' '.join(random.choice(WORDS, 5))}, number {random.integers(10**9)} {random.integers(10**9)}",
        "created_at": datetime.datetime(2024, 1, 1) + datetime.timedelta(seconds=number),
        "has_label": True,
        "jpg_0": _image(random),
        "jpg_1": _image(random),
        "label_0": label,
        "label_1": 1 - label,
        "model_0": "a",
        "model_1": "b",
        "user_id": int(random.integers(500)),
    }


def _image(random: np.random.Generator) -> bytes:
    stream = BytesIO()
    small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
