"""Compute the facts of images in a process that a hostile image may kill; see pool.py.

A request is a frame of JSON (`limits`, and the `sha256` of each image) and one frame for each image. The answer is one
frame of JSON with the values of each image's facts. The process ends when its standard input does.

The kernel ends the process by SIGPROF when an image takes more CPU time than it may: decoders run in C, where no Python
signal handler would run.
"""

import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

from pipelines.intake.decoding.frames import read_frame, write_frame
from pipelines.intake.image_facts import DecodingLimits, ImageFacts, decode, strict_decoding, with_statistics

READY = b"ready"


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the pool closes the pipe
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up in a frame
    warnings.simplefilter("ignore")
    with strict_decoding():
        _serve(source, sink)


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    write_frame(sink, READY)
    sink.flush()
    while (head := read_frame(source)) is not None:
        request = json.loads(head)
        images = [read_frame(source) for _ in request["sha256"]]
        if None in images:
            return
        limits = _limits(request["limits"])
        write_frame(sink, json.dumps(_facts(images, request["sha256"], limits)).encode())
        sink.flush()


def _limits(stated: dict[str, Any]) -> DecodingLimits:
    tuples = {name: tuple(value) for name, value in stated.items() if isinstance(value, list)}
    return DecodingLimits(**{**stated, **tuples})


def _facts(images: Sequence[bytes | None], digests: Sequence[str], limits: DecodingLimits) -> list[ImageFacts]:
    decoded = []
    for image, sha256 in zip(images, digests, strict=True):
        signal.setitimer(signal.ITIMER_PROF, limits.max_decode_seconds)
        decoded.append(decode(image or b"", limits, sha256))
    signal.setitimer(signal.ITIMER_PROF, 0)
    return with_statistics(decoded)


if __name__ == "__main__":
    main()
