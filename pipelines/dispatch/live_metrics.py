"""Stream a job's metrics and sample images from its output folder to its MLflow run while it trains.

metrics.jsonl and samples/index.jsonl are the record; this follows them in a thread. It never disturbs the training:
when the tracking server is unavailable it warns, waits, and catches up. A cursor file notes what is about to
be sent and then what the server has stored, so an attempt that resumes from an earlier checkpoint sends no step and no
image twice.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from alignment.contracts.jobs import (
    METRICS_FILE,
    PLACEMENT_CHOICE_FILE,
    SAMPLES_INDEX_FILE,
    MetricsLine,
    PlacementChoice,
    SampleLine,
)
from alignment.evaluation.contact_sheet import samples_sheet, samples_strip
from alignment.files.paths import resolve_below
from pipelines.dispatch.job_folder import read_model, write_atomically

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 120.0
LAST_TRIES = 3
JOIN_TIMEOUT_SECONDS = 120.0
JOIN_WHEN_STOPPED_SECONDS = 5.0

Line = TypeVar("Line", bound=BaseModel)


class _Stream(Protocol):
    """The part of tracking.RunStream that is used here."""

    def log_metrics(self, step: int, unix_seconds: float, metrics: Mapping[str, float]) -> None: ...
    def log_image(self, path: Path, key: str, step: int) -> None: ...
    def log_params(self, params: Mapping[str, str]) -> None: ...
    def show_pictures(self, pictures: Mapping[str, Image.Image], caption: str) -> None: ...
    def flush(self) -> None: ...
    def last_steps(self, names: Iterable[str]) -> dict[str, int]: ...


class _TrackingCursor(BaseModel):
    """Points and images that the tracking server has."""

    model_config = ConfigDict(extra="forbid")

    last_step: dict[str, int] = {}
    """Maps a metric's name to the last step that was sent."""
    sending: set[str] = set()
    """Metrics that were being sent when the file was written; the server knows how far that went."""
    images: set[str] = set()
    """`key@step` of every image that was sent."""
    placement: bool = False
    """True once the choice of an adaptive placement was sent."""


class _Tail:
    """Complete new lines of a file that grows, and that a resumed job may cut back to its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._before = b""

    def read(self) -> list[bytes]:
        """Return new lines; all lines again when the file is no longer the one that was read."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as stream:
            start = self._offset - len(self._before)
            stream.seek(start)
            if stream.read(len(self._before)) != self._before:
                self._offset = 0
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            self._offset += len(whole)
            self._before = whole[-200:]
        return whole.splitlines()

    def restart(self) -> None:
        """Read everything again next time."""
        self._offset, self._before = 0, b""


class LiveMetrics:
    """Follows an output folder from `__enter__` until `__exit__`, which sends everything still unsent."""

    def __init__(self, out_dir: Path, cursor_path: Path, open_stream: Callable[[], _Stream]) -> None:
        self._out_dir = out_dir
        self._cursor_path = cursor_path
        self._open_stream = open_stream
        self._cursor = read_model(cursor_path, _TrackingCursor) or _TrackingCursor()
        self._in_doubt = self._cursor.sending
        self._tails = {MetricsLine: _Tail(out_dir / METRICS_FILE), SampleLine: _Tail(out_dir / SAMPLES_INDEX_FILE)}
        self._samples: dict[SampleLine, Path] = {}
        self._stream: _Stream | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # A stopped worker has only the supervisor's grace period left.
        self._thread.join(JOIN_TIMEOUT_SECONDS if error is None else JOIN_WHEN_STOPPED_SECONDS)
        if self._thread.is_alive():
            log.warning(
                "The tracking server does not respond; the run lacks its last points. %s has all.", METRICS_FILE
            )
            return
        for attempt in range(LAST_TRIES if error is None else 1):
            if self.catch_up():
                return
            time.sleep(2.0**attempt)
        log.warning(
            "The run lacks its last points and images: the tracking server did not respond. %s has all.", METRICS_FILE
        )

    def catch_up(self, *, contact: bool = False) -> bool:
        """Send new points and images; False, after a warning, when they could not be sent and must be sent later.

        `contact` opens the stream even if there is nothing to send.
        """
        cursor = self._cursor.model_copy(deep=True)
        try:
            self._send(cursor, contact)
        except Exception as error:
            log.warning("Tracking: %s", error)
            self._stream = None
            for tail in self._tails.values():
                tail.restart()
            return False
        if cursor != self._cursor:
            self._cursor = cursor
            self._save(cursor)
        return True

    def _follow(self) -> None:
        pause = POLL_SECONDS
        while True:
            pause = POLL_SECONDS if self.catch_up(contact=True) else min(2 * pause, LONGEST_PAUSE_SECONDS)
            if self._stop.wait(pause):
                return

    def _send(self, cursor: _TrackingCursor, contact: bool) -> None:
        metrics = _parse(self._tails[MetricsLine].read(), MetricsLine)
        samples = _parse(self._tails[SampleLine].read(), SampleLine)
        if not metrics and not samples and not contact:
            return
        self._stream = self._stream or self._open_stream()
        if self._in_doubt:
            cursor.last_step |= self._stream.last_steps(sorted(self._in_doubt))
            self._cursor, self._in_doubt = cursor.model_copy(deep=True), set()
        stored = dict(cursor.last_step)
        points = [(line, new) for line in metrics if (new := _unsent(line, cursor))]
        if points:
            names = {name for _, new in points for name in new}
            self._save(cursor.model_copy(update={"last_step": stored, "sending": names}))
        for line, new in points:
            self._stream.log_metrics(line.step, line.unix_seconds, new)
        self._send_placement(cursor, self._stream)
        sent = [self._send_image(sample, cursor, self._stream) for sample in samples]
        if any(sent):
            self._show_samples(self._stream)
        self._stream.flush()
        cursor.sending = set()

    def _save(self, cursor: _TrackingCursor) -> None:
        write_atomically(self._cursor_path, cursor.model_dump_json())

    def _show_samples(self, stream: _Stream) -> None:
        """Show the images in the run's description: the last step's, and below them those of all steps."""
        step = max(sample.step for sample in self._samples)
        try:
            strip, sheet = samples_strip(self._samples), samples_sheet(self._samples)
        except ValueError:  # No step has an image of every prompt yet.
            return
        except OSError as error:
            log.warning("The samples of step %d are not shown together: %s", step, error)
            return
        pictures = {f"samples/step_{step:08d}.png": strip, f"samples/by_step_{step:08d}.png": sheet}
        stream.show_pictures(pictures, f"Samples of step {step}; below them those of earlier steps.")

    def _send_placement(self, cursor: _TrackingCursor, stream: _Stream) -> None:
        """Send the first choice of an adaptive placement as parameters; the metric `micro_batch` shows later ones."""
        choice = None if cursor.placement else read_model(self._out_dir / PLACEMENT_CHOICE_FILE, PlacementChoice)
        if choice is not None:
            stream.log_params({"placement.micro_batch": str(choice.micro_batch)})
            cursor.placement = True

    def _send_image(self, sample: SampleLine, cursor: _TrackingCursor, stream: _Stream) -> bool:
        """Send an image and return True; False if the server has it, or it cannot be read."""
        name = f"{sample.key}@{sample.step}"
        known = name in cursor.images
        cursor.images.add(name)
        try:
            path = resolve_below(self._out_dir, sample.path, SAMPLES_INDEX_FILE)
            if not known:
                stream.log_image(path, sample.key, sample.step)
        except (ValueError, FileNotFoundError) as error:
            log.warning("Sample %s is left out of the run: %s", sample.path, error)
            return False
        self._samples[sample] = path
        return not known


def _unsent(line: MetricsLine, cursor: _TrackingCursor) -> dict[str, float]:
    """Return the metrics of a line that are new, and advance the cursor past them."""
    new = {name: value for name, value in line.metrics.items() if line.step > cursor.last_step.get(name, -1)}
    cursor.last_step |= dict.fromkeys(new, line.step)
    return new


def _parse(lines: list[bytes], model: type[Line]) -> list[Line]:
    """Parse valid lines; an incomplete line of a process killed while writing is left out."""
    parsed = []
    for line in lines:
        try:
            parsed.append(model.model_validate_json(line))
        except ValidationError:
            log.warning("A line is not a %s and is left out: %.100r", model.__name__, line)
    return parsed
