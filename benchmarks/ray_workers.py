"""Train one recipe on the shapes base with one Ray worker and with two: the same curve, and the ratio of throughput.

Starts a Ray cluster of two nodes on this host, with one CPU each and no folder in common, encodes the shapes pairs with
two workers, and trains twice. Printed: the largest difference of each metric between the curves, the median pairs per
second of both runs, and their ratio. On one host the two nodes share its caches and memory bandwidth.

Run `python benchmarks/ray_workers.py [STEPS]`; 60 steps take about four minutes on two idle cores.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "cluster")]

from ray_nodes import RayNodes  # noqa: E402

from alignment.contracts.jobs import HEALTH, METRICS_FILE, Placement  # noqa: E402
from pipelines.contracts.jobs import JobRequest  # noqa: E402
from pipelines.dispatch import jobs  # noqa: E402
from pipelines.dispatch.requests.request import with_generation  # noqa: E402
from pipelines.settings import load_settings  # noqa: E402
from pipelines.stages import pairs  # noqa: E402
from pipelines.stages.jobs import job_request  # noqa: E402
from pipelines.store.storage import open_store  # noqa: E402

PROJECT = str(ROOT / "projects" / "shapes.toml")
WARM_UP_STEPS = 5
NOT_COMPARED = ("pairs_per_second", "resident_memory_gib")
Curve = list[dict[str, float]]


def main() -> None:
    """Run both trainings and print the comparison."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as scratch:
        nodes = RayNodes(Path(scratch) / "nodes")
        try:
            nodes.start_head("a", cpus=1)
            nodes.start_node("b", cpus=1)
            os.environ |= {
                "PLUMBLINE_STATE_DIR": f"{scratch}/control",
                "PLUMBLINE_STORE_URI": (Path(scratch) / "store").as_uri(),
                "PLUMBLINE_RAY_ADDRESS": nodes.address,
                "RAY_AUTH_TOKEN": nodes.token,
            }
            compare(*(train(steps, workers) for workers in (1, 2)))
        finally:
            nodes.stop()


def make_cache() -> dict[str, Any]:
    """Ingest the shapes pairs and encode them with two workers; return what a train job is given."""
    for shard in pairs.list_shards(PROJECT):
        pairs.validate(PROJECT, pairs.ingest(PROJECT, shard))
    given = {"snapshot": pairs.snapshot(PROJECT), "recipe": 0}
    cache = run(job_request(PROJECT, "encode", given), workers=2)
    return {**given, "cache": cache}


_given: dict[str, Any] = {}


def train(steps: int, workers: int) -> Curve:
    """Train with a number of workers; return the metrics of each step."""
    if not _given:
        _given.update(make_cache())
    overrides = (f"steps={steps}",)
    request = with_generation(job_request(PROJECT, "train", _given, overrides=overrides), workers)
    run(request, workers=workers)
    settings = load_settings()
    lines = open_store(settings.store_uri, settings).read_bytes(f"{request.output_uri}/{METRICS_FILE}")
    return [json.loads(line)["metrics"] for line in lines.splitlines()]


def run(request: JobRequest, *, workers: int) -> dict[str, Any]:
    """Run a job on the cluster, its log on stderr."""
    placement = Placement(engine="ray", num_processes=workers, micro_batch=16)
    request = request.model_copy(update={"placement": placement})
    return jobs.run_to_end(request, load_settings(), on_log=lambda line: print(line, file=sys.stderr))


def compare(one: Curve, two: Curve) -> None:
    """Print the largest difference of each metric, and the throughputs."""
    for name in sorted(own for own in set(one[0]) - set(NOT_COMPARED) if not own.startswith(HEALTH)):
        largest = max(abs(ours[name] - theirs[name]) for ours, theirs in zip(one, two, strict=True))
        size = max(abs(metrics[name]) for metrics in one)
        print(f"{name:40s} largest difference {largest:.2e} of {size:.3g}")
    speeds = [statistics.median(m["pairs_per_second"] for m in curve[WARM_UP_STEPS:]) for curve in (one, two)]
    print(f"pairs/s: one worker {speeds[0]:.1f}, two workers {speeds[1]:.1f}, ratio {speeds[1] / speeds[0]:.2f}")


if __name__ == "__main__":
    main()
