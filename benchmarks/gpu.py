"""Measure the bars of real models on one GPU: training, memory, encoding, drawing; a table of them last.

It needs torch, diffusers, accelerate, peft and transformers, and no network: bases have the published configurations
and random weights. Each section runs in its own process with its own time limit, and a section that fails leaves
the others. Rows go to OUT/rows.jsonl; a second call with the same OUT adds to them.

    python benchmarks/gpu.py --out DIR                     all sections, about 13 minutes on an H100
    python benchmarks/gpu.py --out DIR --peer SCRIPTS      also the peer's columns; SCRIPTS is diffusers' folder
                                                           examples/research_projects/diffusion_dpo
    python benchmarks/gpu.py --out DIR --sections sdxl,flux --budget 300
    python benchmarks/gpu.py --out DIR --tiny              rehearsal on a CPU with tiny sizes; no figure means anything
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_bench import peer, training  # noqa: E402 - the folder of this file has to be on the path first
from gpu_bench.bases import resolution_of, whole_pipeline  # noqa: E402
from gpu_bench.table import table  # noqa: E402
from gpu_bench.training import Run  # noqa: E402

BF16 = {"frozen_weights": "bf16"}
PLAIN, EVERY_2, ALL = (
    {"gradient_checkpointing": "none"},
    {"gradient_checkpointing": "every_n"},
    {"gradient_checkpointing": "all"},
)
ADAFACTOR = {"optimiser": {"kind": "adafactor", "learning_rate": 1e-9}}
RUNS = {
    "sd15": (Run("sd15 lora", "sd15", 4, recipe=BF16, placement=PLAIN),),
    "sdxl": (
        Run("sdxl lora", "sdxl", 4, recipe=BF16, placement=PLAIN),
        Run("sdxl lora every 2", "sdxl", 4, recipe=BF16, placement=EVERY_2),
        Run("sdxl lora all blocks", "sdxl", 4, recipe=BF16, placement=ALL),
        Run("sdxl lora 1", "sdxl", 1, recipe=BF16, placement=PLAIN),
    ),
    "sdxl_full": (
        Run("sdxl full 1 all blocks", "sdxl", 1, rank=0, recipe=ADAFACTOR, placement=ALL),
        Run("sdxl full 4", "sdxl", 4, rank=0, recipe=ADAFACTOR, placement=ALL),
    ),
    "sd35": (Run("sd35 lora", "sd35_medium", 1, recipe=BF16, placement=PLAIN),),
    "flux": (
        Run("flux lora bf16", "flux1_dev", 1, rank=16, recipe=BF16, placement=ALL),
        Run("flux lora nf4", "flux1_dev", 1, rank=16, recipe={"frozen_weights": "nf4"}, placement=ALL),
    ),
    "channels_last": (
        Run("sdxl lora channels last", "sdxl", 4, recipe=BF16, placement=PLAIN | {"channels_last": True}),
    ),
    "compile": (Run("sdxl compiled", "sdxl", 1, recipe=BF16, placement=PLAIN | {"compile_blocks": True}),),
}
PLAIN_RUNS = (
    Run("sd15 lora float32 weights", "sd15", 4),
    Run("sdxl lora float32 weights", "sdxl", 1),
    Run("sd35 lora float32 weights", "sd35_medium", 1),
    Run("flux lora float32 weights", "flux1_dev", 1),
)
"""Runs without settings that a version may lack."""
TUNED = ["--dataloader_num_workers=8"]


@dataclass(frozen=True)
class Section:
    """A part that is measured in one process. `run` returns its rows as it goes through `emit`."""

    name: str
    limit_seconds: int
    run: Callable[[Any, Callable[[dict[str, Any]], None]], None]


def runs(*found: Run) -> Callable[[Any, Callable[[dict[str, Any]], None]], None]:
    """Return the function of a section of training rows."""

    def run(given: Any, emit: Callable[[dict[str, Any]], None]) -> None:
        for own in found:
            emit(training.measure(own, given.work, tiny=given.tiny))

    return run


def of_peer(base: str, name: str, options: list[str]) -> Callable[[Any, Callable[[dict[str, Any]], None]], None]:
    """Return the function of a section that runs the peer's script."""

    def run(given: Any, emit: Callable[[dict[str, Any]], None]) -> None:
        emit(peer.measure(name, base, given.peer, given.work, batch=4, tiny=given.tiny, options=options))

    return run


def of_script(script: str, name: str, base: str = "") -> Callable[[Any, Callable[[dict[str, Any]], None]], None]:
    """Return the function of a section that runs another benchmark of this folder and reads its last ratio."""

    def run(given: Any, emit: Callable[[dict[str, Any]], None]) -> None:
        path = ROOT / "benchmarks" / script
        if not path.is_file():
            return emit({"name": name, "error": f"not in this version: benchmarks/{script}"})
        command = [sys.executable, str(path)]
        if base and not given.tiny:
            folder = whole_pipeline(given.work / f"pipeline-{base}", base, tiny=False)
            command += ["--base", str(folder), "--family", base, "--resolution", str(resolution_of(base, tiny=False))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ratios = re.findall(r"ratio (\d+\.\d+)", done.stdout)
        if done.returncode or not ratios:
            return emit({"name": name, "error": (done.stderr or done.stdout).strip()[-160:]})
        return emit({"name": name, "ratio": float(ratios[0]), "text": done.stdout.strip()[-400:]})

    return run


SECTIONS = (
    Section("rate", 60, lambda given, emit: emit(training.matrix_rate())),
    Section("sd15", 60, runs(*RUNS["sd15"])),
    Section("peer_sd15", 60, of_peer("sd15", "peer sd15", [])),
    Section("sdxl", 110, runs(*RUNS["sdxl"])),
    Section("peer_sdxl", 80, of_peer("sdxl", "peer sdxl", [])),
    Section("sdxl_full", 80, runs(*RUNS["sdxl_full"])),
    Section("sd35", 45, runs(*RUNS["sd35"])),
    Section("flux", 90, runs(*RUNS["flux"])),
    Section("compile", 90, runs(*RUNS["compile"])),
    Section("channels_last", 40, runs(*RUNS["channels_last"])),
    Section("encode", 60, of_script("encode.py", "encode")),
    Section("drawing", 60, of_script("drawing.py", "drawing", "sdxl")),
    Section("peer_sd15_tuned", 50, of_peer("sd15", "peer sd15 tuned", TUNED)),
    Section("peer_sdxl_tuned", 70, of_peer("sdxl", "peer sdxl tuned", TUNED)),
    Section("plain", 100, runs(*PLAIN_RUNS)),
)


def parsed() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl, logs and table.md")
    parser.add_argument("--work", type=Path, help="folder of bases and caches; by default a temporary one")
    parser.add_argument("--peer", type=Path, help="folder with the peer's scripts")
    parser.add_argument("--sections", default=",".join(section.name for section in SECTIONS))
    parser.add_argument("--budget", type=int, default=840, help="seconds for all sections")
    parser.add_argument("--tiny", action="store_true", help="rehearse with tiny sizes")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the sections, each in its own process, and print the table. Return 2 for a section that does not exist."""
    given = parsed()
    names = given.sections.split(",")
    unknown = set(names) - {section.name for section in SECTIONS}
    if unknown:
        known = ", ".join(section.name for section in SECTIONS)
        print(f"Unknown sections: {', '.join(sorted(unknown))}. Known: {known}.", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    if given.only:
        return only(given)
    with tempfile.TemporaryDirectory() as scratch:
        drive(given, names, given.work or Path(scratch))
    text = table({row["name"]: row for row in read_rows(given.out)})
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def drive(given: Any, names: list[str], work: Path) -> None:
    """Run the sections in their order until the budget is spent."""
    end = time.monotonic() + given.budget
    for section in SECTIONS:
        if section.name not in names or (section.name.startswith("peer") and given.peer is None):
            continue
        left = int(end - time.monotonic())
        if left < 10:
            print(f"{section.name}: skipped, the budget is spent", flush=True)
            continue
        command = [sys.executable, "-W", "ignore", __file__, "--only", section.name, "--out", str(given.out)]
        command += ["--work", str(work), *(["--tiny"] if given.tiny else [])]
        command += ["--peer", str(given.peer)] if given.peer else []
        started = time.monotonic()
        limit = min(left, section.limit_seconds * (10 if given.tiny else 1))
        ended = run_limited(command, given.out / f"{section.name}.log", limit)
        print(f"{section.name}: {ended} after {time.monotonic() - started:.0f} s", flush=True)


def run_limited(command: list[str], log: Path, limit_seconds: int) -> str:
    """Run a process with its output in a file; return how it ended."""
    search = ":".join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]).rstrip(":")
    environment = {**os.environ, "PYTHONPATH": search, "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=limit_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return "stopped at its limit"
    return "done" if done.returncode == 0 else f"exit code {done.returncode}, see {log}"


def only(given: Any) -> int:
    """Run one section in this process."""

    def emit(row: dict[str, Any]) -> None:
        peer.write({"section": given.only, "tiny": given.tiny, **row}, given.out / "rows.jsonl")

    section = next(section for section in SECTIONS if section.name == given.only)
    given.work.mkdir(parents=True, exist_ok=True)
    section.run(given, emit)
    sys.stdout.flush()
    os._exit(0)  # threads of a peer's script do not keep the process


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all sections so far, the latest of each name last."""
    path = out / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
