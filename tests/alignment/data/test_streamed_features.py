"""Training on a streamed cache has the curve of training on a complete one, which is never on the disk as a whole."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.data import Encoding, FeatureCache
from alignment.contracts.jobs import HEALTH, JobFailure, JobStoppedError, Placement
from alignment.contracts.training import TrainSpec
from alignment.data import streamed_features
from alignment.data.features import CachedFeatures
from alignment.data.streamed_features import open_features
from alignment.training.loop import RunInputs, TrainingRun
from alignment.training.offline_update import OfflineUpdate
from pipelines.dispatch.feature_stream import BLOCK_BYTES, FeatureStream
from pipelines.store.storage import open_store

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)
STEPS = 12


def published(bench: Any, folder: Path) -> FeatureStream:
    """A stream of the bench's cache that keeps a part of it: the pairs of a step and some more."""
    store = open_store((folder / "store").as_uri())
    uri = store.uri("features", "x")
    store.publish_folder(bench.inputs / bench.cache.content_digest, uri, {}, exclude=["result.json", "spec.json"])
    return FeatureStream(store, uri, folder / "streamed", limit_bytes=LIMIT_BYTES)


LIMIT_BYTES = 20 * BLOCK_BYTES


def curve(bench: Any, spec: TrainSpec, features: CachedFeatures, out: Path) -> list[dict[str, float]]:
    """The metrics of every step, without the times."""
    out.mkdir()
    torch.use_deterministic_algorithms(True)
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.recipe.backbone)
    placement = Placement(log_every_steps=1)
    TrainingRun(RunInputs(spec, placement, backbone, partial(OfflineUpdate, features), out)).run()
    lines = [json.loads(line)["metrics"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    of_the_host = ("second", "memory", HEALTH)
    return [
        {name: value for name, value in line.items() if not any(part in name for part in of_the_host)} for line in lines
    ]


@contextmanager
def measured(folder: Path) -> Iterator[list[int]]:
    """Measure the bytes of a folder all the time; the list gets each figure.

    Files come and go meanwhile: a file that was deleted after it was listed, and the one that then took its space,
    were never there together. So a figure counts only if the same files were there before and after it.
    """
    found, stop = list[int](), threading.Event()

    def look() -> None:
        while not stop.wait(0.002):
            before = sorted(folder.rglob("*.safetensors"))
            try:
                size = sum(-(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for path in before)
            except FileNotFoundError:
                continue
            if sorted(folder.rglob("*.safetensors")) == before:
                found.append(size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield found
    stop.set()
    thread.join()


def with_images_once(bench: Any, folder: Path) -> Any:
    """The bench with a cache that stores each image once."""
    spec = bench.encode_spec.model_copy(update={"encoding": Encoding(distinct_images=True)})
    assert bench.encode(folder, spec=spec) == 0
    cache = FeatureCache.model_validate_json((folder / "result.json").read_text())
    shutil.copytree(folder, bench.inputs / cache.content_digest, dirs_exist_ok=True)
    return replace(bench, encode_spec=spec, cache=cache)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("kind", ["bench", "captioned_bench", "bucketed_bench"])
def test_the_curve_is_that_of_a_complete_cache(
    request: pytest.FixtureRequest, kind: str, once: bool, tmp_path: Path
) -> None:
    bench = request.getfixturevalue(kind)
    if once:
        bench = with_images_once(bench, tmp_path / "cache")
    spec = bench.train_spec(global_batch=3, steps=STEPS)
    complete = curve(bench, spec, open_features(bench.inputs / bench.cache.content_digest), tmp_path / "complete")
    stream = published(bench, tmp_path)
    with stream.running(), measured(stream.folder / "stream") as sizes:
        streamed = curve(bench, spec, open_features(stream.folder), tmp_path / "out")
    assert len(complete) == STEPS
    assert bool(CachedFeatures(stream.folder).index.num_images) is once
    assert streamed == complete
    assert 0 < max(sizes) <= LIMIT_BYTES
    assert stream.peak_bytes <= LIMIT_BYTES


def test_pairs_that_nobody_announced_are_asked_for(bench: Any, tmp_path: Path) -> None:
    complete = CachedFeatures(bench.inputs / bench.cache.content_digest)
    stream = published(bench, tmp_path)
    with stream.running():
        features = open_features(stream.folder)
        for index in (20, 3, 4):
            assert torch.equal(features.pair(index).chosen_mean_CHW, complete.pair(index).chosen_mean_CHW)
        assert features.has_captions() is complete.has_captions() is False


def test_a_stream_that_failed_stops_the_job_with_its_reason(bench: Any, tmp_path: Path) -> None:
    stream = published(bench, tmp_path)
    failure = JobFailure(kind="bad_data", message="pairs/00000.safetensors has another sha256")
    (stream.folder / "stream" / "failure.json").write_text(failure.model_dump_json())
    with pytest.raises(JobStoppedError, match="another sha256") as caught:
        open_features(stream.folder).pair(0)
    assert caught.value.kind == "bad_data"


def test_a_wait_is_bounded(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = published(bench, tmp_path)
    monkeypatch.setattr(streamed_features, "WAIT_SECONDS", 0.05)
    with pytest.raises(JobStoppedError, match="did not arrive within"):
        open_features(stream.folder).pair(0)


def test_a_folder_without_a_stream_is_a_complete_cache(bench: Any) -> None:
    assert not open_features(bench.inputs / bench.cache.content_digest).streamed
