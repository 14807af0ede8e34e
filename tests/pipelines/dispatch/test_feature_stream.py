"""A feature cache is brought pair by pair, in the order that the job announces, within its limit."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignment.contracts.jobs import JobFailure
from alignment.contracts.streaming import WantedPairs, caption_file, pair_file
from pipelines.dispatch import feature_stream
from pipelines.dispatch.feature_stream import FeatureStream
from pipelines.store.storage import Store, open_store

NUM_PAIRS, SHARD_PAIRS, NUM_CAPTIONS, CAPTIONS_PER_SHARD = 40, 8, 21, 8
PAIR_BYTES, CAPTION_BYTES = 12288, 4096
"""On the disk, in blocks."""
SECONDS = 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def uri(store: Store, tmp_path: Path) -> str:
    """A published cache: pair n has its number in its latents, and captions 1 + n // 2."""
    out = tmp_path / "out"
    for kind in ("pairs", "text"):
        (out / kind).mkdir(parents=True)
    for first in range(0, NUM_PAIRS, SHARD_PAIRS):
        numbers = np.arange(first, first + SHARD_PAIRS)
        latents = np.broadcast_to(numbers[:, None], (SHARD_PAIRS, 2500)).astype(np.float32)
        tensors = {"chosen_mean_BCHW": latents.copy(), "caption_chosen_B": 1 + numbers // 2}
        save_file(
            tensors | {"caption_rejected_B": 1 + numbers // 2}, out / f"pairs/{first // SHARD_PAIRS:05d}.safetensors"
        )
    for first in range(0, NUM_CAPTIONS, CAPTIONS_PER_SHARD):
        numbers = np.arange(first, min(first + CAPTIONS_PER_SHARD, NUM_CAPTIONS))
        save_file(
            {"states": numbers[:, None].astype(np.float32)}, out / f"text/{first // CAPTIONS_PER_SHARD:05d}.safetensors"
        )
    index = {"spec": {"shard_pairs": SHARD_PAIRS}, "captions_per_shard": CAPTIONS_PER_SHARD}
    (out / "index.json").write_text(json.dumps(index))
    found = store.uri("features/x")
    store.publish_folder(out, found, {})
    return found


def announce(stream: FeatureStream, pairs: list[int], now: int) -> None:
    path = stream.folder / "stream" / "wanted.json"
    beside = path.with_name(".wanted")
    beside.write_text(WantedPairs(pairs=tuple(pairs), now=now).model_dump_json())
    beside.replace(path)


def here(stream: FeatureStream) -> list[int]:
    return sorted(int(path.stem) for path in (stream.folder / "stream" / "pairs").glob("0*.safetensors"))


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_pairs_come_in_the_announced_order_within_the_limit(store: Store, uri: str, tmp_path: Path) -> None:
    limit = 6 * (PAIR_BYTES + CAPTION_BYTES)
    stream = FeatureStream(store, uri, tmp_path / "in", limit_bytes=limit)
    order = np.random.default_rng(5).permutation(NUM_PAIRS).tolist()
    seen = []
    with stream.running():
        for step in range(0, NUM_PAIRS, 2):
            announce(stream, order[step:], now=2)
            for pair in order[step : step + 2]:
                file = pair_file(stream.folder / "stream", pair)
                wait_for(file.is_file)
                found = load_file(file)
                caption = int(found["caption_chosen_B"][0])
                wait_for(caption_file(stream.folder / "stream", caption).is_file)
                states = load_file(caption_file(stream.folder / "stream", caption))["states"]
                assert (found["chosen_mean_BCHW"] == pair).all()
                assert float(states[0, 0]) == caption == 1 + pair // 2
                seen.append(pair)
            wait_for(lambda left=set(order[step:]): set(here(stream)) <= left)
            assert on_disk(stream.folder / "stream" / "pairs") <= limit
    assert seen == order
    assert 0 < stream.peak_bytes <= limit


def test_a_step_that_does_not_fit_is_an_error_with_the_limit(store: Store, uri: str, tmp_path: Path) -> None:
    stream = FeatureStream(store, uri, tmp_path / "in", limit_bytes=3 * PAIR_BYTES)
    with pytest.raises(ValueError, match=r"The 8 pairs of a step do not fit.*PLUMBLINE_CACHE_GIB"):
        run(stream, list(range(8)), now=8)


def run(stream: FeatureStream, pairs: list[int], now: int) -> None:
    """Announce pairs and wait for them, or for the failure that a job reads."""
    failure = stream.folder / "stream" / "failure.json"
    with stream.running():
        announce(stream, pairs, now=now)
        wait_for(lambda: set(here(stream)) >= set(pairs) or failure.is_file())
        if failure.is_file():
            assert JobFailure.model_validate_json(failure.read_text()).kind == "bad_data"


def test_a_damaged_shard_is_found_though_only_a_row_of_it_was_read(store: Store, uri: str, tmp_path: Path) -> None:
    path = tmp_path / "store" / "features" / "x" / "pairs" / "00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))
    stream = FeatureStream(store, uri, tmp_path / "in", limit_bytes=10**6)
    with pytest.raises(ValueError, match=r"pairs/00002\.safetensors has sha256"):
        run(stream, [16], now=1)


def test_what_the_network_loses_is_fetched_again(
    store: Store, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_stream, "RETRY_SECONDS", 0.01)
    read, lost = store.read_range, set[tuple[str, int]]()

    def unreliable(uri: str, first: int, *given: Any) -> tuple[bytes, str]:
        if (uri, first) not in lost:
            lost.add((uri, first))
            raise ConnectionError("the line went dead")
        return read(uri, first, *given)

    stream = FeatureStream(store, uri, tmp_path / "in", limit_bytes=10**6)
    monkeypatch.setattr(store, "read_range", unreliable)
    with stream.running():
        announce(stream, list(range(20)), now=1)
        wait_for(lambda: len(here(stream)) == 20)
    assert len(lost) > 20
