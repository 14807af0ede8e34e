"""Decode images in a bounded pool of processes, so that an image that hangs or crashes a decoder costs one row.

Each process gets a few images at a time. When one dies, its images are given to other processes one by one, and the
image that a new process dies of again has the problem `decode_too_slow` or `decode_failed`.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import BinaryIO, NamedTuple

from pipelines.intake.decoding.frames import read_frame, write_frame
from pipelines.intake.decoding.worker import READY
from pipelines.intake.image_facts import DecodingLimits, ImageFacts, Problem

COMMAND = (sys.executable, "-P", "-m", "pipelines.intake.decoding.worker")
IMAGES_AT_ONCE = 32
"""Images in one request, which share its cost."""
BYTES_AT_ONCE = 16 * 2**20
"""Encoded bytes in one request, from which it has no further image."""
START_SECONDS = 300.0
"""Longest start of a process, on a busy host."""
SPARE_SECONDS = 60.0
"""Time, by the clock, that a request may take beyond that of its CPU limits."""
CLOCK_PER_CPU_SECOND = 20.0
"""Time, by the clock, that one CPU second may take on a busy host."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR")


class EncodedImage(NamedTuple):
    """Bytes of an image, possibly in the memory of a table, and their digest."""

    data: bytes | memoryview
    sha256: str


class PendingFacts(NamedTuple):
    """Facts of an image that a process may still be decoding."""

    answer: Future[list[ImageFacts]]
    place: int

    def result(self) -> ImageFacts:
        """Wait for the facts. RuntimeError when no decoding process can start."""
        return self.answer.result()[self.place]


class DecodingPool:
    """Processes that decode images. They start when they are needed and stay until `close`."""

    def __init__(self, *, workers: int | None = None, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._threads = ThreadPoolExecutor(workers or os.cpu_count())
        self._idle: deque[_Worker] = deque()

    def submit(self, images: Sequence[EncodedImage], limits: DecodingLimits) -> "list[PendingFacts]":
        """Start to decode images, and return the facts of each, in order, before they are known."""
        pending = []
        for request in _requests(images):
            answer = self._threads.submit(self._facts, request, limits)
            pending += [PendingFacts(answer, place) for place in range(len(request))]
        return pending

    def close(self) -> None:
        """End the processes. Requests that are under way are finished first."""
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().close()

    def _facts(self, request: Sequence[EncodedImage], limits: DecodingLimits) -> list[ImageFacts]:
        answer = self._ask(request, limits)
        if not isinstance(answer, str):
            return answer
        return [self._facts_of_suspect(image, limits) for image in request]

    def _facts_of_suspect(self, image: EncodedImage, limits: DecodingLimits) -> ImageFacts:
        """Decode one image alone, since a process died with it.

        An idle process may have been killed from outside, as when memory is short; only a new one shows the image's
        fault.
        """
        answer = self._ask([image], limits)
        if answer == "decode_failed":
            answer = self._ask([image], limits, new=True)
        return ImageFacts(image.sha256, len(image.data), answer) if isinstance(answer, str) else answer[0]

    def _ask(
        self, request: Sequence[EncodedImage], limits: DecodingLimits, *, new: bool = False
    ) -> "list[ImageFacts] | Problem":
        try:
            worker = _Worker(self._command) if new else self._idle.pop()
        except IndexError:
            worker = _Worker(self._command)
        answer = worker.ask(request, limits)
        if isinstance(answer, str):
            worker.close()
        else:
            self._idle.append(worker)
        return answer


def shared_pool() -> DecodingPool:
    """Return the pool of this process, which all its batches share: a process takes a moment to start."""
    with _lock:
        if os.getpid() not in _pools:
            _pools.clear()  # after a fork, the pool and its pipes are the parent's
            _pools[os.getpid()] = DecodingPool()
            atexit.register(_close_shared, os.getpid())
        return _pools[os.getpid()]


_pools: dict[int, DecodingPool] = {}
_lock = threading.Lock()


def _close_shared(pid: int) -> None:
    if pid == os.getpid() and pid in _pools:
        _pools.pop(pid).close()


def _requests(images: Sequence[EncodedImage]) -> list[list[EncodedImage]]:
    requests: list[list[EncodedImage]] = []
    size = BYTES_AT_ONCE
    for image in images:
        if size >= BYTES_AT_ONCE or len(requests[-1]) == IMAGES_AT_ONCE:
            requests.append([])
            size = 0
        requests[-1].append(image)
        size += len(image.data)
    return requests


class _Worker:
    """One decoding process."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        same_code = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment |= {"PYTHONPATH": same_code, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        with _Deadline(self._process, START_SECONDS):
            ready = read_frame(self._output) == READY
        if not ready:
            self.close()
            raise RuntimeError(
                f"A process that decodes images could not start (exit code {self._process.returncode}); its message is"
                f" above. Run `{' '.join(command)}` to see it."
            )

    @property
    def _input(self) -> BinaryIO:
        assert self._process.stdin is not None
        return self._process.stdin  # type: ignore[return-value]

    @property
    def _output(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    def ask(self, request: Sequence[EncodedImage], limits: DecodingLimits) -> "list[ImageFacts] | Problem":
        """Return the facts of the images, or the problem when the process died of one of them."""
        seconds = SPARE_SECONDS + CLOCK_PER_CPU_SECOND * limits.max_decode_seconds
        head = json.dumps({"limits": asdict(limits), "sha256": [image.sha256 for image in request]})
        with _Deadline(self._process, seconds) as deadline:
            try:
                write_frame(self._input, head.encode())
                for image in request:
                    write_frame(self._input, image.data)
                self._input.flush()
                answer = read_frame(self._output)
            except OSError:  # the process died while it was written to
                answer = None
        if answer is not None:
            return [ImageFacts(*values) for values in json.loads(answer)]
        too_slow = deadline.passed or self._process.wait() == -signal.SIGPROF
        return "decode_too_slow" if too_slow else "decode_failed"

    def close(self) -> None:
        """End the process and its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was written did not reach the process
                continue


class _Deadline:
    """Kills a process that is not done in time. Use as a context manager."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        self.passed = False
        self._process = process
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self.passed = True
        self._process.kill()

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
