"""The process that decodes: its answers, and its death by the limit of CPU time."""

import hashlib
import json
import signal
import subprocess
from dataclasses import asdict
from io import BytesIO

import numpy as np
from hostile_images import jpeg_with_scans
from PIL import Image

from pipelines.intake.decoding.frames import read_frame, write_frame
from pipelines.intake.decoding.pool import COMMAND
from pipelines.intake.decoding.worker import READY
from pipelines.intake.image_facts import DecodingLimits, ImageFacts, image_facts

LIMITS = DecodingLimits(20_000_000, 50_000_000, 16_384, ("JPEG", "PNG", "WEBP"), (255, 255, 255), 5.0)


def asked(images: list[bytes], limits: DecodingLimits) -> tuple[list[bytes | None], int]:
    """Send one request to a new process and return its frames and exit code."""
    request = BytesIO()
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    write_frame(request, json.dumps({"limits": asdict(limits), "sha256": digests}).encode())
    for image in images:
        write_frame(request, image)
    done = subprocess.run(COMMAND, input=request.getvalue(), stdout=subprocess.PIPE, timeout=100, check=False)
    output = BytesIO(done.stdout)
    return [read_frame(output), read_frame(output)], done.returncode


def test_the_answer_is_the_facts_of_each_image() -> None:
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(stream, "PNG")
    images = [stream.getvalue(), b"junk", b""]
    (ready, answer), code = asked(images, LIMITS)
    assert (ready, code) == (READY, 0)
    assert answer is not None
    assert [ImageFacts(*values) for values in json.loads(answer)] == [image_facts(image, LIMITS) for image in images]


def test_the_kernel_ends_a_process_whose_image_takes_too_much_cpu_time() -> None:
    slow = jpeg_with_scans(99, side=4000)
    limits = DecodingLimits(20_000_000, 50_000_000, 16_384, ("JPEG",), (255, 255, 255), 0.03)
    (ready, answer), code = asked([slow], limits)
    assert (ready, answer, code) == (READY, None, -signal.SIGPROF)
