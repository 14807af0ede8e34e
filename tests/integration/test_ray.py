"""Jobs on a Ray cluster whose nodes come, go and die: real nodes, real training, one curve.

The tests of one world follow each other, since a cluster and the shapes features take a minute to make.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_requests import counting_request
from ray_nodes import RayNodes

from alignment.contracts.jobs import HEALTH, METRICS_FILE, Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus
from pipelines.dispatch.engines.catalogue import Ray
from pipelines.dispatch.engines.interface import TERMINAL_STATES
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.dispatch.engines.ray import RayEngine
from pipelines.dispatch.jobs import run_to_end
from pipelines.dispatch.requests.request import with_generation
from pipelines.settings import Settings, load_settings
from pipelines.stages import pairs
from pipelines.stages.jobs import job_request
from pipelines.store.storage import open_store

pytestmark = [pytest.mark.loop, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PROJECT = str(ROOT / "projects" / "shapes.toml")
COUNTING = (sys.executable, str(ROOT / "tests" / "pipelines" / "dispatch" / "engines" / "counting_worker.py"))
NOT_COMPARED = {"pairs_per_second", "resident_memory_gib", "implicit_accuracy"}
STEPS = 60
LONG = 240
Curve = dict[int, dict[str, float]]


class World:
    """A cluster, a store that its nodes and the control plane share, and jobs."""

    def __init__(self, folder: Path) -> None:
        self.nodes = RayNodes(folder / "nodes")
        self.environ = {
            "PLUMBLINE_STATE_DIR": str(folder / "control"),
            "PLUMBLINE_STORE_URI": (folder / "store").as_uri(),
            "PLUMBLINE_RAY_ADDRESS": self.nodes.address,
            "RAY_AUTH_TOKEN": self.nodes.token,
        }
        self.settings: Settings = load_settings(self.environ)
        self.given: dict[str, Any] = {}

    def engine(self, worker: tuple[str, ...] = (), **params: float) -> RayEngine:
        return RayEngine(self.settings, Ray(grace_seconds=10, **params), worker=worker)

    def training(self, generation: int, steps: int = STEPS, **placement: Any) -> JobRequest:
        request = job_request(PROJECT, "train", self.given, overrides=(f"steps={steps}",))
        placement = {"engine": "ray", "micro_batch": 16, "checkpoint_every_steps": 1000, **placement}
        request = request.model_copy(update={"placement": Placement(**placement)})
        return with_generation(request, generation)

    def curve(self, request: JobRequest) -> Curve:
        lines = open_store(self.settings.store_uri).read_bytes(f"{request.output_uri}/{METRICS_FILE}").splitlines()
        return {line["step"]: line["metrics"] for line in map(json.loads, lines)}

    def counting(self, count: int, **placement: Any) -> JobRequest:
        return counting_request(self.settings.store_uri, {"count": count}, engine="ray", **placement)


def log_of(engine: RayEngine, handle: JobHandle) -> list[str]:
    lines: list[str] = []
    cursor = 0
    while (chunk := engine.logs(handle, cursor)).cursor != cursor:
        lines += chunk.lines
        cursor = chunk.cursor
    return lines


def wait_for(engine: RayEngine, handle: JobHandle, ready: Callable[[JobStatus], Any], what: str) -> JobStatus:
    deadline = time.monotonic() + 480
    while not ready(status := engine.status(handle)):
        lines = "\n".join(log_of(engine, handle)[-60:])
        assert status.state not in TERMINAL_STATES, f"{status} while waiting for {what}\n{lines}"
        assert time.monotonic() < deadline, f"{status} while waiting for {what}\n{lines}"
        time.sleep(0.3)
    return status


def has_succeeded(status: JobStatus) -> bool:
    return status.state == "succeeded"


def assert_one_curve(ours: Curve, theirs: Curve, rounding: Callable[[int, float], float]) -> None:
    """Compare with the rounding of one latent's error, times the largest factor between an error and a metric."""
    assert ours.keys() == theirs.keys()
    for step, metrics in theirs.items():
        for name in (own for own in metrics.keys() - NOT_COMPARED if not own.startswith(HEALTH)):
            allowed = 2000 * rounding(256, 1.2) if name in ("loss", "margin", "gradient_norm") else rounding(256, 4.0)
            assert abs(ours[step][name] - metrics[name]) <= allowed, (step, name, ours[step][name], metrics[name])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A head without CPUs for jobs and two nodes with one each, and the shapes features, encoded on both."""
    world = World(tmp_path_factory.mktemp("ray_world"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environ.items():
            patch.setenv(name, value)
        try:
            world.nodes.start_head("head", cpus=0)
            world.nodes.start_node("b", cpus=1)
            world.nodes.start_node("c", cpus=1)
            for shard in pairs.list_shards(PROJECT):
                pairs.validate(PROJECT, pairs.ingest(PROJECT, shard))
            world.given = {"snapshot": pairs.snapshot(PROJECT), "recipe": 0}
            yield world
        finally:
            world.nodes.stop()


def test_features_encoded_on_two_nodes_are_those_of_one_process(world: World) -> None:
    request = job_request(PROJECT, "encode", world.given)
    alone = with_generation(request, 1)
    on_two = request.model_copy(update={"placement": Placement(engine="ray", num_processes=2)})
    cache = run_to_end(on_two, world.settings, engine=world.engine())
    local = run_to_end(alone, world.settings, engine=LocalEngine(world.settings))
    assert cache["content_digest"] == local["content_digest"]
    shards = [set((node / "ranks").rglob("pairs/*.safetensors")) for node in (world.nodes.folder / n for n in "bc")]
    assert all(shards), "each node wrote shards"
    world.given["cache"] = cache


def test_one_and_two_workers_give_one_curve_with_copies_and_with_shards(
    world: World, rounding: Callable[[int, float], float]
) -> None:
    curves = []
    for number, placement in enumerate(({}, {"num_processes": 2}, {"num_processes": 2, "sharding": "fsdp2"})):
        request = world.training(10 + number, steps=8, **placement)
        run_to_end(request, world.settings, engine=world.engine())
        curves.append(world.curve(request))
    assert_one_curve(curves[1], curves[0], rounding)
    assert_one_curve(curves[2], curves[0], rounding)


def test_a_preempted_node_costs_no_step_and_the_job_grows_again(
    world: World, rounding: Callable[[int, float], float]
) -> None:
    # Many steps, so that the new node joins before the end on fast machines too.
    undisturbed = world.training(3, steps=LONG)
    run_to_end(undisturbed, world.settings, engine=world.engine())
    engine = world.engine(resize_seconds=10)
    request = world.training(4, steps=LONG, num_processes=2, min_processes=1)
    handle = engine.submit(request)
    wait_for(engine, handle, lambda status: status.progress_done >= 3, "step 3 on two nodes")
    world.nodes.drain("c", seconds=15)
    time.sleep(15)
    world.nodes.take_away("c")
    wait_for(engine, handle, lambda _: "process 0 of 1" in "\n".join(log_of(engine, handle)), "one process")
    world.nodes.start_node("d", cpus=1)
    wait_for(engine, handle, has_succeeded, "the end")
    lines = log_of(engine, handle)
    worlds = [line.rsplit("process 0 of ", 1)[1][0] for line in lines if "process 0 of " in line]
    assert worlds == ["2", "1", "2"]
    assert engine.status(handle).attempt == 1
    assert not [line for line in lines if "it repeats" in line], "a checkpoint was written at the notice"
    assert_one_curve(world.curve(request), world.curve(undisturbed), rounding)


def test_a_node_that_dies_without_notice_is_replaced_within_the_attempt(world: World) -> None:
    engine = world.engine(COUNTING)
    request = world.counting(120, num_processes=1)
    handle = engine.submit(request)
    wait_for(engine, handle, lambda status: status.progress_done >= 20, "a count of 20")
    (node,) = [n for n in ("b", "d") if list((world.nodes.folder / n / "ranks").glob(f"{handle.job_id}-*-00000"))]
    world.nodes.kill(node)
    wait_for(engine, handle, has_succeeded, "the end on the other node")
    assert engine.status(handle).attempt == 1
    resumed = [int(line.split()[-1]) for line in log_of(engine, handle) if line.startswith("counting from")]
    assert resumed[0] == 0
    assert resumed[-1] >= 10, "the last save was seconds before"


def test_a_dead_head_loses_the_attempt_and_a_new_one_continues(world: World) -> None:
    engine = world.engine(COUNTING, silence_seconds=15)
    request = world.counting(200, num_processes=1)
    handle = engine.submit(request)
    wait_for(engine, handle, lambda status: status.progress_done >= 20, "a count of 20")
    world.nodes.stop()
    deadline = time.monotonic() + 60
    while (status := engine.status(handle)).state != "lost":
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    with pytest.raises(ConnectionError, match="does not answer"):
        engine.submit(request)
    world.nodes.start_head("head", cpus=1)
    fresh = world.engine(COUNTING)
    assert fresh.submit(request) == handle
    wait_for(fresh, handle, has_succeeded, "the end on the new head")
    assert fresh.status(handle).attempt == 2
    assert fresh.result(handle)["counted"] == 200
    resumed = [int(line.split()[-1]) for line in log_of(fresh, handle) if line.startswith("counting from")]
    assert resumed[-1] >= 10
