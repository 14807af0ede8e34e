"""A feature cache whose pairs arrive while training runs; see alignment/contracts/streaming.py for the files.

The job says which pairs it reads next, which it knows from the seed and the step. Another process of this host fetches
them ahead and deletes those that were read.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from alignment.contracts.jobs import JobFailure, JobStoppedError
from alignment.contracts.streaming import (
    STREAM_DIR,
    STREAM_FAILURE_FILE,
    WANTED_FILE,
    WantedPairs,
    caption_file,
    image_file,
    pair_file,
)
from alignment.data.features import CachedFeatures

WAIT_SECONDS = 900.0
"""Longest time without a pair. A store that does not respond for longer stops the job, which continues when it runs
again."""
POLL_SECONDS = 0.005
ASK_AGAIN_SECONDS = 2.0
AHEAD = 64
"""Pairs asked for when one is read that was not announced: a search through the cache goes in order."""


def open_features(folder: Path) -> CachedFeatures:
    """Open a feature cache: a complete one, or one that is streamed."""
    return _StreamedFeatures(folder) if (folder / STREAM_DIR).is_dir() else CachedFeatures(folder)


class _StreamedFeatures(CachedFeatures):
    """A feature cache of which index.json and buckets.safetensors are here, and a moving part of the pairs."""

    streamed = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stream = folder / STREAM_DIR
        self._announced: frozenset[int] = frozenset()

    def expect(self, pairs: Sequence[int], *, now: int, announce: bool) -> None:
        distinct = tuple(dict.fromkeys(pairs))
        self._announced = frozenset(distinct)
        if announce:
            self._write(WantedPairs(pairs=distinct, now=len(set(pairs[:now]))))

    def _pair_rows(self, index: int) -> tuple[dict[str, Tensor], int]:
        return self._read(pair_file(self.stream, index), index), 0

    def _image_rows(self, image: int) -> tuple[dict[str, Tensor], int]:
        return self._read(image_file(self.stream, image)), 0

    def _caption_rows(self, caption: int) -> tuple[dict[str, Tensor], int]:
        return self._read(caption_file(self.stream, caption)), 0

    def _read(self, path: Path, pair: int | None = None) -> dict[str, Tensor]:
        """Wait for a file and read it into memory, so that deleting it frees its space."""
        deadline, ask_at = time.monotonic() + WAIT_SECONDS, time.monotonic() + ASK_AGAIN_SECONDS
        if pair is not None and pair not in self._announced and not path.is_file():
            self._ask(pair)
        while time.monotonic() < deadline:
            try:
                tensors: dict[str, Tensor] = load(path.read_bytes())
                return tensors
            except FileNotFoundError:
                self._raise_failure()
            except SafetensorError as error:
                raise JobStoppedError("bad_data", f"{path} cannot be read: {error}") from error
            if pair is not None and pair not in self._announced and time.monotonic() > ask_at:
                self._ask(pair)
                ask_at = time.monotonic() + ASK_AGAIN_SECONDS
            time.sleep(POLL_SECONDS)
        raise JobStoppedError("crashed", f"{path} did not arrive within {WAIT_SECONDS:.0f} s. See the worker's log.")

    def _ask(self, pair: int) -> None:
        self._write(WantedPairs(pairs=tuple(range(pair, min(pair + AHEAD, self.index.num_pairs))), now=1))

    def _write(self, wanted: WantedPairs) -> None:
        """Replace the announcement. It need not outlast the host, so it is not flushed to the disk."""
        beside = self.stream / f".{WANTED_FILE}.{os.getpid()}.part"
        beside.write_text(wanted.model_dump_json(), encoding="utf-8")
        beside.replace(self.stream / WANTED_FILE)

    def _raise_failure(self) -> None:
        path = self.stream / STREAM_FAILURE_FILE
        if path.is_file():
            try:
                failure = JobFailure.model_validate(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, ValidationError):
                return  # half-written
            raise JobStoppedError(failure.kind, failure.message)
