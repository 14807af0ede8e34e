"""Measure the CPU time of imports for each job entry point, as a ratio to `import torch` measured in the same run.

    alignment.jobs.NAME         imports of every process of the job before it reads its spec
    train + stable_diffusion    the same, plus the UNet family that the tiny Stable Diffusion trains with
    train + ... + pipeline      the same, plus the pipeline that generates its sample grids

Each line is the median of some new processes: CPU seconds (user and system) and the number of modules loaded.

Run `python benchmarks/imports.py [PROCESSES]` (default 3); it takes about five minutes on an idle core, two with 1.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELPERS = {"__init__", "checked_features", "outcome", "processes"}
UNET = "import alignment.jobs.train, alignment.backbones.stable_diffusion"
MEASURE = """
import json, resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules)]))
"""


def main(processes: int) -> None:
    """Print one line per entry point."""
    torch_seconds, modules = measure("import torch", processes)
    show("import torch", torch_seconds, modules, torch_seconds)
    for title, statement in entries().items():
        show(title, *measure(statement, processes), torch_seconds)


def entries() -> dict[str, str]:
    """Return the title and import statement of every measurement."""
    jobs = sorted(path.stem for path in (ROOT / "alignment" / "jobs").glob("*.py") if path.stem not in HELPERS)
    commands = ("pipelines.commands.cli", "pipelines.dispatch.worker", "pipelines.dispatch.supervisor")
    single = {name: f"import {name}" for name in (*(f"alignment.jobs.{job}" for job in jobs), *commands)}
    pipeline = f"{UNET}\nalignment.backbones.stable_diffusion.FAMILY.pipeline_class"
    return single | {"train + stable_diffusion": UNET, "train + stable_diffusion + pipeline": pipeline}


def measure(statement: str, processes: int) -> tuple[float, int]:
    """Return the median CPU seconds and the number of modules of a process that runs the statement."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", statement + MEASURE]
    runs = []
    for _ in range(processes):
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return statistics.median(seconds for seconds, _ in runs), runs[0][1]


def show(title: str, seconds: float, modules: int, torch_seconds: float) -> None:
    """Print one line of figures."""
    print(f"{title:36s} {seconds:6.2f} s   {modules:5d} modules   {seconds / torch_seconds:5.2f} x torch", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
