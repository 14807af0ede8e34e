"""Runs jobs one after the other in the processes it was launched with: importing torch is the costly part.

`accelerate launch ... run_jobs.py DIR PID`. The test, process PID, writes DIR/N.json for N = 0, 1, ...:
{"module": ..., "arguments": [...], "port": ...}. Each rank does what `python -m MODULE ARGUMENTS` does and writes the
exit code to DIR/N.RANK. A job "stop" ends the process, as does the end of the test or of the launcher. The ranks of
each job meet at a separate port: in the launcher's store they would find the addresses of the job before.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, GradientState
from torch import distributed

POLL_SECONDS = 0.05


def next_job(path: Path, test: Path, launcher: int) -> dict[str, Any]:
    """Wait for a job; "stop" when the launcher is gone, or the test process, whose folder in /proc is `test`."""
    while not path.exists():
        if os.getppid() != launcher or not test.exists():
            return {"module": "stop"}
        time.sleep(POLL_SECONDS)
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return job


def run(module: str, arguments: list[str]) -> int:
    """Run the module as a program and return its exit code."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        leave_group()
    return 0


def leave_group() -> None:
    """Forget the process group of a job, as its end does: some jobs have left it themselves, others have not."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def main(folder: Path, test: Path) -> None:
    """Run jobs until a job says "stop"."""
    launcher, number = os.getppid(), 0
    while (job := next_job(folder / f"{number}.json", test, launcher))["module"] != "stop":
        answer, part = (folder / f"{number}.{os.environ['RANK']}{end}" for end in ("", ".part"))
        os.environ |= {"MASTER_PORT": str(job["port"]), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        part.write_text(str(run(job["module"], job["arguments"])))
        part.rename(answer)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path("/proc") / sys.argv[2])
