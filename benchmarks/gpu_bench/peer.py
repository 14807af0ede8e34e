"""Run the peer's unmodified training script on a random pipeline and noise images, and time the steps that it logs.

The script calls Accelerator.log once a step, after reading that step's loss, so that the device is idle there.
"""

import importlib.util
import io
import json
import os
import runpy
import statistics
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from gpu_bench.bases import resolution_of, whole_pipeline

SCRIPTS = {"sd15": "train_diffusion_dpo.py", "sdxl": "train_diffusion_dpo_sdxl.py"}
PAIRS, WARM, TIMED = 64, 3, 8


def measure(name: str, base: str, scripts: Path, work: Path, *, batch: int, tiny: bool, options: list[str]) -> Any:
    """Run the script in this process, which it ends; write its row to work/peer.json first."""
    folder = whole_pipeline(work / f"pipeline-{base}", base, tiny=tiny)
    data = _images(work / f"images-{base}", resolution_of(base, tiny=tiny))
    batch = 2 if tiny else batch
    script = scripts / SCRIPTS[base]
    if not script.is_file():
        return {"name": name, "base": base, "error": f"{script} does not exist"}
    sys.argv = [str(script), *_arguments(base, folder, data, work, batch=batch, tiny=tiny), *options]
    times, peaks, error = _timed(script)
    gaps = [after - before for before, after in zip(times[WARM:], times[WARM + 1 :], strict=False)]
    row: dict[str, Any] = {"name": name, "base": base, "micro_batch": batch, "error": error}
    if gaps:
        row |= {"pairs_s": batch / statistics.median(gaps), "step_ms": 1000 * statistics.median(gaps), **peaks}
    return row


def _arguments(base: str, folder: Path, data: Path, work: Path, *, batch: int, tiny: bool) -> list[str]:
    given = {
        "pretrained_model_name_or_path": folder,
        "dataset_name": data,
        "dataset_split_name": "validation",
        "output_dir": work / "peer-out",
        "resolution": resolution_of(base, tiny=tiny),
        "train_batch_size": batch,
        "max_train_steps": WARM + TIMED + 1,
        "checkpointing_steps": 100_000,
        "rank": 8,
        "learning_rate": 1e-8,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "seed": 0,
        "mixed_precision": "bf16" if tiny else "fp16",
        "report_to": "tensorboard",
    }
    return [f"--{name}={value}" for name, value in given.items()]


def _timed(script: Path) -> tuple[list[float], dict[str, float], str]:
    """Run the script; return the times of its log calls, its peaks, and its error."""
    import torch
    from accelerate import Accelerator

    times: list[float] = []
    peaks: dict[str, float] = {}
    honest = Accelerator.log

    def log(self: Any, values: Any, step: Any = None, **more: Any) -> Any:
        times.append(time.perf_counter())
        if torch.cuda.is_available():
            peaks["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            peaks["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        return honest(self, values, step=step, **more)

    Accelerator.log = log
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    _stand_in("wandb")  # the scripts import it whatever they report to
    _stand_in("datasets", load_dataset=_load_rows)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except torch.OutOfMemoryError as caught:
        return times, peaks, f"out of memory: {str(caught)[:80]}"
    except SystemExit:
        return times, peaks, ""
    except Exception as caught:
        return times, peaks, f"{type(caught).__name__}: {str(caught)[:160]}"
    return times, peaks, ""


def _stand_in(name: str, **attributes: Any) -> None:
    """Provide a module that is not installed."""
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(attributes)
        sys.modules[name] = module


class _Rows:
    """The part of a data set that the scripts use: rows on which a transform of columns runs when they are read."""

    def __init__(self, rows: list[dict[str, Any]], transform: Any = None) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def with_transform(self, transform: Any) -> "_Rows":
        return _Rows(self.rows, transform)

    def __getitem__(self, index: int) -> dict[str, Any]:
        columns = self.transform({name: [value] for name, value in self.rows[index].items()})
        return {name: values[0] for name, values in columns.items()}


def _load_rows(name: str, cache_dir: Any = None, split: str = "") -> _Rows:
    import pyarrow.parquet as pq

    files = sorted(Path(name).rglob(f"{split}*.parquet"))
    return _Rows([row for file in files for row in pq.read_table(file).to_pylist()])


def _images(folder: Path, side: int) -> Path:
    """Write pairs of noisy JPEG files in the columns that the script reads."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    path = folder / "data" / "validation-00000-of-00001.parquet"
    if path.exists():
        return folder
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(0)

    def picture() -> bytes:
        coarse = Image.fromarray(random.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=92)
        return buffer.getvalue()

    columns = {name: [picture() for _ in range(PAIRS)] for name in ("jpg_0", "jpg_1")}
    prompts = [f"a photo of a small house by the sea, number {number}" for number in range(PAIRS)]
    pq.write_table(pa.table({**columns, "label_0": [1.0] * PAIRS, "caption": prompts}), path)
    return folder


def write(row: dict[str, Any], path: Path) -> None:
    """Append a row; called before the process ends, since the script may leave threads behind."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
