"""Replace an alignment job in the worker's tests: same arguments, same files, no torch.

Its spec states what it does: `count` steps of a twentieth of a second with a metrics line, a sample every two and a
checkpoint every step (or every `checkpoint_every`, as in a real training with the time of the clock in each line), then
the result; or `fail` with a kind, or leave with exit code `exit`.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

stopped: list[int] = []


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("spec", "placement", "inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = parser.parse_args()
    spec = json.loads(paths.spec.read_text())
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    write(paths.out / "environment.json", dict(os.environ))
    write(paths.out / "inputs.json", {p.name: sorted(f.name for f in p.glob("*")) for p in paths.inputs.iterdir()})
    if "exit" in spec:
        return int(spec["exit"])
    if "fail" in spec:
        write(paths.out / "failure.json", {"kind": spec["fail"], "message": f"it is {spec['fail']}", "step": 3})
        return 1
    if not train(paths.out, spec["count"], spec.get("checkpoint_every", 0)):
        write(paths.out / "failure.json", {"kind": "preempted", "message": "stopped", "step": None})
        return 143
    for name in ("weights/weights.safetensors", f"samples/{'e' * 64}/00000_0.png"):
        write(paths.out / name, "bytes")
    write(paths.out / "progress.json", {"done": 1, "total": 1, "unit": "steps"})
    write(paths.out / "result.json", {"uri": "", "content_digest": "0" * 64, "steps": spec["count"]})
    return 0


def train(out: Path, count: int, checkpoint_every: int) -> bool:
    """Continue from the checkpoint; return False when stopped on the way."""
    checkpoint = out / "checkpoints" / "step"
    done = int(json.loads(checkpoint.read_text())) if checkpoint.exists() else 0
    print(f"from step {done}", flush=True)
    metrics = out / "metrics.jsonl"
    if checkpoint_every and metrics.exists():
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:done]))
    for step in range(done + 1, count + 1):
        clock = time.time() if checkpoint_every else float(step)
        append(metrics, {"step": step, "unix_seconds": clock, "metrics": {"loss": 1.0 / step}})
        if step % 2 == 0:
            write(out / f"samples/{step}.png", "image")
            line = {"step": step, "key": "samples/00", "path": f"samples/{step}.png", "prompt": "p"}
            append(out / "samples/index.jsonl", line)
        if step % (checkpoint_every or 1) == 0:
            write(checkpoint, step)
        time.sleep(0.05)
        if stopped:
            return False
    return True


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def append(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    sys.exit(main())
