"""Measure the CPU time of ingest per image, as a ratio to the time in which Pillow decodes the same images.

Each line is a format and a side in pixels: microseconds per image of `Image.open(...).load()` alone, of `ingest` from
the source's parquet file to the published batch with facts (its decoding processes included), and the ratio. Ingest
runs in a new process twice, with few and with many rows; the difference leaves the start of the process out. The last
lines are the peak memory of ingest at two numbers of rows.

Run `python benchmarks/ingest.py`; it takes about ten minutes and 3 GiB on an idle core.
"""

import datetime
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[1]
SIZES = {64: (400, 6_400), 512: (40, 1_240), 1024: (20, 220)}
"""Side in pixels to the rows of the short and the long run; each row has two images."""
MEMORY_ROWS = (4_000, 40_000)
ROW_GROUP_BYTES = 100_000_000
"""Size of a row group, as the `datasets` library writes them."""
REPEATS = 3
GOALS = {64: 1.5, 512: 1.3}
PROJECT = """
name = "bench"
[base]
uri = "base"
licence = "none"
backbone = {{ name = "stable_diffusion", resolution = 64 }}
[[sources]]
name = "pairs"
kind = "pick_a_pic"
uri = "{folder}"
licence = "none"
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0]
sampler = {{ steps = 2 }}
[[evaluation.judges]]
name = "judge"
uri = "judge"
scorer = {{ kind = "clip_preference" }}
[gate]
minimum_prompts = 1
required_judges = 1
"""


def main() -> None:
    """Print the ratios and the memory, or ingest one folder for another process that measures it."""
    if len(sys.argv) > 1:
        ingest_folder(Path(sys.argv[1]))
        return
    print("format  side   decode us   ingest us   ratio")
    for side, (few, many) in SIZES.items():
        for form in ("JPEG", "PNG"):
            images = pictures(side, form, 2 * many)
            decode = min(decoding_seconds(images) for _ in range(REPEATS)) / len(images)
            seconds = [min(ingest_run(images[: 2 * rows])[0] for _ in range(REPEATS)) for rows in (few, many)]
            ingest = (seconds[1] - seconds[0]) / (2 * (many - few))
            goal = f"   (goal {GOALS[side]})" if side in GOALS else ""
            print(
                f"{form:6s} {side:5d} {decode * 1e6:11.0f} {ingest * 1e6:11.0f} {ingest / decode:7.2f}{goal}",
                flush=True,
            )
    for rows in MEMORY_ROWS:
        peak = ingest_run(pictures(64, "JPEG", 2 * rows))[1]
        print(f"peak memory of ingest, {rows:6d} rows of 64 px: {peak / 1024:.0f} MiB", flush=True)


def pictures(side: int, form: str, count: int) -> list[bytes]:
    """Return distinct encoded images: smooth colours with a little noise, as photographs have."""
    rng = np.random.default_rng(side)
    smooth = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    base = np.asarray(Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = rng.integers(-6, 7, (2 * side, 2 * side, 3), dtype=np.int16)
    found = []
    for number in range(count):
        x, y = number % side, number // side % side
        pixels = np.clip(base + noise[y : y + side, x : x + side], 0, 255).astype(np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, form, **({"quality": 90} if form == "JPEG" else {"compress_level": 1}))
        found.append(stream.getvalue())
    return found


def decoding_seconds(images: list[bytes]) -> float:
    """Return the CPU seconds in which Pillow decodes every image."""
    start = time.process_time()
    for data in images:
        with Image.open(BytesIO(data)) as image:
            image.load()
    return time.process_time() - start


def ingest_run(images: list[bytes]) -> tuple[float, int]:
    """Return the CPU seconds of a process that ingests the images, with its children, and its peak memory in KiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "pairs" / "shard.parquet", images)
        (folder / "bench.toml").write_text(PROJECT.format(folder=folder / "pairs"))
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime, int(printed)


def write_shard(path: Path, images: list[bytes]) -> None:
    """Write the images two by two as rows of a Pick-a-Pic file. A row group has at most 1,000 rows."""
    path.parent.mkdir()
    rows = len(images) // 2
    now = datetime.datetime(2026, 1, 1)
    columns = {
        "caption": [f"a picture number {row} of nothing in particular" for row in range(rows)],
        "jpg_0": images[0::2],
        "jpg_1": images[1::2],
        "label_0": [float(row % 2) for row in range(rows)],
        "label_1": [float(1 - row % 2) for row in range(rows)],
        "has_label": [True] * rows,
        "user_id": [row % 50 for row in range(rows)],
        "created_at": [now] * rows,
        "model_0": ["a"] * rows,
        "model_1": ["b"] * rows,
    }
    rows_together = max(1, ROW_GROUP_BYTES * rows // sum(map(len, images)))
    pq.write_table(pa.table(columns), path, row_group_size=min(1_000, rows_together))


def ingest_folder(folder: Path) -> None:
    """Ingest the project of a folder, and print the peak memory of this process in KiB."""
    from pydantic import SecretStr

    from pipelines.intake.ingestion import ingest, list_source_shards
    from pipelines.project.file import load_project
    from pipelines.settings import Settings
    from pipelines.workspace import Workspace

    settings = Settings(
        store_uri=(folder / "store").as_uri(),
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        state_dir=folder / "state",
        projects_dir=folder,
        annotator_salt=SecretStr("bench"),
    )
    workspace = Workspace(load_project(folder / "bench.toml"), settings)
    for shard in list_source_shards(workspace):
        ingest(shard, workspace)
    # Not ru_maxrss, which counts the memory of the process that started this one.
    print(
        next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    )


if __name__ == "__main__":
    main()
