"""Fetch a feature cache pair by pair while training reads it, within a limit, so that it need not fit on the disk.

The job announces the pairs that it reads next (alignment/contracts/streaming.py). Their rows are read from the shards
in the store by range, in that order, as far ahead as the limit allows; what was read is deleted. Each shard that is
used is also read once from end to end: its sha256 must be that of the manifest, and all ranges are of the same version.
"""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.contracts.jobs import JobFailure
from alignment.contracts.streaming import (
    STREAM_DIR,
    STREAM_FAILURE_FILE,
    WANTED_FILE,
    WantedPairs,
    caption_file,
    image_file,
    pair_file,
)
from pipelines.contracts.store import Manifest
from pipelines.dispatch.job_folder import read_model, write_atomically
from pipelines.dispatch.tensor_rows import ShardRows, write_row
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

INDEX_FILE = "index.json"
WHOLE_FILES = (INDEX_FILE, "buckets.safetensors")
POLL_SECONDS = 0.01
SHARDS_AT_ONCE = 16
PARALLEL_READS = 8
BLOCK_BYTES = 4096
RETRY_SECONDS = 5.0
STOP_SECONDS = 5.0
EMPTY_CAPTION = 0


@dataclass(frozen=True)
class _Layout:
    """Sizes of the shards, from index.json."""

    shard_pairs: int
    captions_per_shard: int
    images_per_shard: int
    """0 when images are stored with each pair."""
    buckets: tuple[str, ...]
    """Prefix of each bucket's tensors; empty when the images are squares."""


@dataclass(frozen=True)
class _Piece:
    """A pair, an image or a caption: where its row is in the store, and the file it becomes."""

    shard: ShardRows
    row: int
    bucket: str | None
    path: Path

    @property
    def num_bytes(self) -> int:
        """Space that the file takes on the disk."""
        size = self.shard.row_bytes(self.bucket)
        return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def is_feature_cache(manifest: Manifest) -> bool:
    """Return True when a published folder is a feature cache."""
    return INDEX_FILE in manifest.files and any(path.startswith("pairs/") for path in manifest.files)


class FeatureStream:
    """Fetches one feature cache for one job of this host. `peak_bytes` is the largest space that its files took."""

    def __init__(self, store: Store, uri: str, folder: Path, *, limit_bytes: int) -> None:
        """Make `folder`, with the small files of the cache."""
        self.folder = folder
        self._store, self._uri, self._limit = store, uri, limit_bytes
        shutil.rmtree(folder, ignore_errors=True)
        self._manifest = store.fetch_folder(uri, folder, only=WHOLE_FILES)
        self._layout = _read_layout(folder / INDEX_FILE)
        self._dir = folder / STREAM_DIR
        for path in (pair_file(self._dir, 0), image_file(self._dir, 0), caption_file(self._dir, 0)):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._shards: dict[str, ShardRows] = {}
        self._here: dict[int, list[_Piece]] = {}
        self._coming: dict[int, tuple[list[_Piece], list[Future[None]]]] = {}
        self._needed: dict[Path, int] = {}
        self._used = self.peak_bytes = 0
        self._stamp: tuple[int, int] | None = None
        self._wanted: WantedPairs | None = None
        self._stop, self._verified = threading.Event(), set[str]()
        self._problem: Exception | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Bring pairs within the block; at its end, unless it fails, wait until every shard in use is verified."""
        fetching = threading.Thread(target=self._guarded, args=(self._fetch,), daemon=True)
        verifying = threading.Thread(target=self._guarded, args=(self._verify,), daemon=True)
        fetching.start()
        verifying.start()
        try:
            yield
            while self._problem is None and self._unverified():
                time.sleep(POLL_SECONDS)
        finally:
            self._stop.set()
            for thread in (fetching, verifying):
                thread.join(STOP_SECONDS)  # a read from the store may take longer; the process ends without it
            log.info("Streamed %s: at most %.1f MiB were on the disk", self._uri, self.peak_bytes / 1024**2)
            shutil.rmtree(self._dir, ignore_errors=True)
        if self._problem is not None:
            raise self._problem

    def _guarded(self, run: Any) -> None:
        try:
            run()
        except Exception as error:  # the job reads it, and the worker raises it
            log.error("The features of %s cannot be streamed: %s", self._uri, error)
            self._problem = error
            kind: Any = "bad_data" if isinstance(error, ValueError) else "crashed"
            failure = JobFailure(kind=kind, message=str(error))
            write_atomically(self._dir / STREAM_FAILURE_FILE, failure.model_dump_json())

    # --- pairs ---

    def _fetch(self) -> None:
        pool, again = ThreadPoolExecutor(PARALLEL_READS), False
        try:
            while not self._stop.wait(POLL_SECONDS) and self._problem is None:
                landed, announced = self._land(), self._read_wanted()
                if self._wanted is not None and (landed or announced or again):
                    self._drop(frozenset(self._wanted.pairs))
                    again = self._launch(self._wanted, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_wanted(self) -> bool:
        """Read the announcement; return True when it is new."""
        path = self._dir / WANTED_FILE
        with suppress(FileNotFoundError):
            facts = path.stat()
            stamp = (facts.st_ino, facts.st_mtime_ns)
            if stamp != self._stamp:
                self._stamp, self._wanted = stamp, read_model(path, WantedPairs)
                return True
        return False

    def _land(self) -> bool:
        """Note the pairs that arrived; return True when there are any."""
        arrived = [pair for pair, (_, futures) in self._coming.items() if all(future.done() for future in futures)]
        for pair in arrived:
            pieces, futures = self._coming.pop(pair)
            for future in futures:
                future.result()
            self._here[pair] = pieces
        return bool(arrived)

    def _drop(self, wanted: frozenset[int]) -> None:
        for pair in [pair for pair in self._here if pair not in wanted]:
            self._forget(pair)

    def _forget(self, pair: int) -> None:
        """Delete a pair, and its captions that no other pair needs."""
        for piece in self._here.pop(pair):
            self._release(piece)

    def _launch(self, wanted: WantedPairs, pool: ThreadPoolExecutor) -> bool:
        """Start to fetch the pairs that are wanted next, until the limit is reached.

        Return True when it has read the headers of some shards first, and has to be called again.
        """
        for pair in wanted.pairs:
            if pair in self._here or pair in self._coming:
                continue
            pieces = self._pieces(pair, wanted, pool)
            if pieces is None:
                return True
            # Held before room is made, so that a caption that is here is not deleted with another pair.
            fresh = [piece for piece in pieces if not self._hold(piece)]
            need = sum(piece.num_bytes for piece in fresh)
            self._make_room(pair, wanted, need)
            self._used += need
            if self._used > self._limit:
                for piece in pieces:
                    self._release(piece)
                self._check_step(wanted, need)
                return False
            self.peak_bytes = max(self.peak_bytes, self._used)
            self._coming[pair] = pieces, [pool.submit(self._bring, piece) for piece in reversed(fresh)]
        return False

    def _hold(self, piece: _Piece) -> bool:
        """Count one more pair that needs a file; return True when another pair needed it already."""
        self._needed[piece.path] = self._needed.get(piece.path, 0) + 1
        return self._needed[piece.path] > 1

    def _release(self, piece: _Piece) -> None:
        """Count one pair less that needs a file; delete it after the last."""
        self._needed[piece.path] -= 1
        if not self._needed[piece.path]:
            del self._needed[piece.path]
            piece.path.unlink(missing_ok=True)
            self._used -= piece.num_bytes

    def _make_room(self, pair: int, wanted: WantedPairs, need: int) -> None:
        """Delete pairs that are wanted after this one, the last first."""
        for later in reversed(wanted.pairs):
            if later == pair or self._used + need <= self._limit:
                return
            if later in self._here:
                self._forget(later)

    def _check_step(self, wanted: WantedPairs, need: int) -> None:
        """Raise ValueError when even the pairs of one step do not fit."""
        step = wanted.pairs[: wanted.now]
        if not self._coming and not all(pair in self._here for pair in step):
            here = sum(pair in self._here for pair in step)
            raise ValueError(
                f"The {wanted.now} pairs of a step do not fit into {self._limit / 1024**2:.1f} MiB, half of"
                f" PLUMBLINE_CACHE_GIB: {here} are here, the next needs {need / 1024**2:.2f} MiB. Raise it here."
            )

    def _bring(self, piece: _Piece) -> None:
        """Fetch a file; what the network loses is fetched again."""
        while not self._stop.is_set():
            try:
                write_row(piece.path, piece.shard.read_row(piece.row, piece.bucket))
                return
            except (ConnectionError, TimeoutError) as error:
                self._wait_after(piece.shard.uri, error)

    def _wait_after(self, uri: str, error: Exception) -> None:
        log.warning("%s is read again: %s", uri, error)
        self._stop.wait(RETRY_SECONDS)

    def _pieces(self, pair: int, wanted: WantedPairs, pool: ThreadPoolExecutor) -> list[_Piece] | None:
        """Return the pair, its captions and its images; None while the headers of their shards are being read."""
        number, row = divmod(pair, self._layout.shard_pairs)
        shard = self._shard("pairs", number)
        if shard is None:
            self._open({("pairs", other // self._layout.shard_pairs) for other in wanted.pairs}, number, pool)
            return None
        captions = sorted({*shard.integers(row, "caption_chosen_B", "caption_rejected_B", "prompt_B"), EMPTY_CAPTION})
        images = sorted(set(shard.integers(row, "image_chosen_B", "image_rejected_B")))
        pieces = [self._piece(shard, row, pair_file(self._dir, pair))]
        for kind, numbers, size, file in (
            ("text", captions, self._layout.captions_per_shard, caption_file),
            ("images", images, self._layout.images_per_shard, image_file),
        ):
            for item in numbers:
                number, row = divmod(item, size)
                part = self._shard(kind, number)
                if part is None:
                    self._open({(kind, other // size) for other in numbers}, number, pool)
                    return None
                pieces.append(self._piece(part, row, file(self._dir, item)))
        return pieces

    def _piece(self, shard: ShardRows, row: int, path: Path) -> _Piece:
        # Only tensors of a bucket have a place in it: neither captions nor pairs whose images are stored once.
        numbers = shard.integers(row, "bucket_B") if shard.integers(row, "place_B") else []
        return _Piece(shard, row, self._layout.buckets[numbers[0]] if numbers else None, path)

    # --- shards ---

    def _shard(self, kind: str, number: int) -> ShardRows | None:
        return self._shards.get(f"{kind}/{number:05d}.safetensors")

    def _open(self, wanted: set[tuple[str, int]], first: int, pool: ThreadPoolExecutor) -> None:
        """Read the headers of some shards that are not open, beginning with the number `first`."""
        closed = sorted((number != first, kind, number) for kind, number in wanted if self._shard(kind, number) is None)
        names = [f"{kind}/{number:05d}.safetensors" for _, kind, number in closed[:SHARDS_AT_ONCE]]
        coming = {name: pool.submit(ShardRows.open, self._store, f"{self._uri}/{name}") for name in names}
        for name, future in coming.items():
            try:
                self._shards[name] = future.result()
            except (ConnectionError, TimeoutError) as error:
                self._wait_after(f"{self._uri}/{name}", error)

    def _unverified(self) -> list[str]:
        return [name for name in list(self._shards) if name not in self._verified]

    def _verify(self) -> None:
        """Compare each shard in use with the manifest. Its ranges are of the version that is hashed."""
        while not self._stop.wait(POLL_SECONDS) and self._problem is None:
            for name in self._unverified()[:1]:
                try:
                    found = self._store.hash_object(f"{self._uri}/{name}", self._shards[name].version)
                except (ConnectionError, TimeoutError) as error:
                    self._wait_after(f"{self._uri}/{name}", error)
                    continue
                if found != self._manifest.files[name].sha256:
                    raise ValueError(
                        f"{self._uri}/{name} has sha256 {found}, its manifest has {self._manifest.files[name].sha256}:"
                        " it was changed or damaged after it was published. Delete the folder and encode again."
                    )
                self._verified.add(name)


def _read_layout(path: Path) -> _Layout:
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    buckets = tuple(f"{bucket['width']}x{bucket['height']}/" for bucket in index.get("buckets", ()))
    return _Layout(index["spec"]["shard_pairs"], index["captions_per_shard"], index.get("images_per_shard", 0), buckets)
