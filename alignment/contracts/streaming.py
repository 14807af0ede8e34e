"""The files by which a training job and the process that fetches its features agree on what comes next.

    <cache folder>/stream/wanted.json            `WantedPairs`, replaced by the job before each step
    <cache folder>/stream/pairs/0000000012.safetensors     one pair: every tensor of its shard, with one row
    <cache folder>/stream/captions/0000000003.safetensors  one caption: every tensor of its shard, with one row
    <cache folder>/stream/images/0000000007.safetensors    one image, if the cache stores each once, likewise
    <cache folder>/stream/failure.json           JobFailure, when no more pairs will come

A pair's file appears after those of its captions and images, each complete. Files of pairs that are no longer wanted
are deleted.
"""

from pathlib import Path

from alignment.contracts.values import Record

STREAM_DIR = "stream"
WANTED_FILE = "wanted.json"
STREAM_FAILURE_FILE = "failure.json"


class WantedPairs(Record):
    """The pairs that a job reads next."""

    pairs: tuple[int, ...]
    """Indices of pairs in the order in which they are read, each once."""
    now: int
    """How many of them the present step reads, so that all must be here together."""


def pair_file(stream_dir: Path, pair: int) -> Path:
    """Return the file of a pair."""
    return stream_dir / "pairs" / f"{pair:010d}.safetensors"


def image_file(stream_dir: Path, image: int) -> Path:
    """Return the file of an image that the cache stores once."""
    return stream_dir / "images" / f"{image:010d}.safetensors"


def caption_file(stream_dir: Path, caption: int) -> Path:
    """Return the file of a caption."""
    return stream_dir / "captions" / f"{caption:010d}.safetensors"
