"""Read and write metrics.jsonl and similar files: one JSON object per line, each with its step."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from alignment.contracts.jobs import HEALTH, METRICS_FILE, MetricsLine
from alignment.files.durable import write_bytes


def append_metrics(out: Path, step: int, metrics: dict[str, float]) -> None:
    """Append a line to metrics.jsonl and flush it, so that a reader who follows the file sees it."""
    line = MetricsLine(step=step, unix_seconds=time.time(), metrics=metrics)
    append_line(out / METRICS_FILE, line.model_dump_json())


def append_line(path: Path, line: str) -> None:
    """Append one line to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read every complete line of a JSON-lines file; skip a last line truncated by a crash. [] without a file."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def cut_back(path: Path, step: int) -> None:
    """Drop every line beyond a step, because a resumed run will write those again."""
    if path.is_file():
        kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
        write_bytes(path, "".join(kept).encode())


def final_means(out: Path, steps: int) -> dict[str, float]:
    """Means over the lines of the last tenth of the steps, or of the last line when that tenth has none.

    The last line names the metrics. One that is not in every line is the mean over those that have it. Metrics of the
    host's health are left out.
    """
    lines = [MetricsLine.model_validate(line) for line in read_lines(out / METRICS_FILE)]
    tail = [line for line in lines if line.step > steps - max(1, steps // 10)] or lines[-1:]
    names = [name for name in tail[-1].metrics if not name.startswith(HEALTH)] if tail else []
    return {name: statistics.fmean(line.metrics[name] for line in tail if name in line.metrics) for name in names}
