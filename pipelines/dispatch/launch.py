"""Start an alignment job: one process, or several under `accelerate launch`."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobRequest
from pipelines.dispatch.job_folder import JobFolder, write_atomically

log = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
ASK_TORCH = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"


def prepare_files(folder: JobFolder, request: JobRequest) -> None:
    """Write the files that the job reads at its start: its spec, its placement, and the launcher's configuration."""
    folder.out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.work_dir / "spec.json", json.dumps(request.spec, indent=1))
    write_atomically(folder.work_dir / "placement.json", request.placement.model_dump_json(indent=1))
    # Without this file the launcher reads the one in the user's home, with settings meant for other programs.
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "debug": False,
        "machine_rank": 0,
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": request.placement.num_processes,
        "use_cpu": False,
    }
    write_atomically(folder.work_dir / "accelerate.json", json.dumps(config, indent=1))


def own_rank() -> int | None:
    """Return the rank of this process when a cluster starts every rank itself; None where a launcher starts them."""
    return int(os.environ["RANK"]) if "RANK" in os.environ else None


def job_command(folder: JobFolder, kind: str, placement: Placement) -> list[str]:
    """Return the command line of an alignment job, or of one rank of it (`own_rank`).

    `--multi_gpu` requests several processes also without a GPU: with `--cpu` the launcher starts one process, unless
    there is MPI. The environment makes the processes use the CPU (`alignment_environment`).
    """
    job = [
        *("-m", f"alignment.jobs.{kind}"),
        *("--spec", str(folder.work_dir / "spec.json")),
        *("--placement", str(folder.work_dir / "placement.json")),
        *("--inputs", str(folder.inputs_dir)),
        *("--out", str(folder.out_dir)),
    ]
    if placement.num_processes == 1 or own_rank() is not None:
        return [sys.executable, *job]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(folder.work_dir / "accelerate.json"), "--multi_gpu"),
        *("--num_processes", str(placement.num_processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("--num_cpu_threads_per_process", str(placement.threads_per_process)),
        *job,
    ]


def must_use_cpu() -> bool:
    """Return True when this host has no GPU that torch can use. Torch is started only where there is a driver."""
    if not NVIDIA_DRIVER.exists() or os.environ.get("CUDA_VISIBLE_DEVICES", "all") in {"", "-1"}:
        return True
    return subprocess.run([sys.executable, "-c", ASK_TORCH], check=False, timeout=300).returncode != 0
