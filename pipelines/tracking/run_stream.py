"""Stream live curves and images of one run to MLflow, from a GPU host with mlflow-skinny."""

import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.tracking.errors import TrackingUnavailable
from pipelines.tracking.runs import AIRFLOW_TAG, NOTE_TAG, connect

log = logging.getLogger(__name__)

MAX_METRICS_PER_REQUEST = 1000
SEND_EVERY_SECONDS = 2.0
PAUSE_WHEN_DOWN_SECONDS = 30.0


@dataclass
class RunStream:
    """Live curves and images of one run, from a GPU host with mlflow-skinny. Not for use by several threads.

    metrics.jsonl is the record, this is the view: `log_metrics` never raises because the server is unavailable; it
    keeps the points and sends them later. `flush` and `log_image` do raise TrackingUnavailable. Points sent twice are
    stored once when step, time and value agree, and an image already in the run under the same key and step is not sent
    again, so a resumed job may send everything it logged again.
    """

    tracking_uri: str
    run_id: str
    _points: list[Any] = field(default_factory=list)
    _next_send: float = 0.0
    _images: set[tuple[str, int]] | None = None

    def log_metrics(self, step: int, unix_seconds: float, metrics: Mapping[str, float]) -> None:
        """Add points to the curves; sent every two seconds or every thousand points."""
        from mlflow.entities import Metric

        milliseconds = round(unix_seconds * 1000)
        self._points += [Metric(name, value, milliseconds, step) for name, value in metrics.items()]
        if len(self._points) < MAX_METRICS_PER_REQUEST and time.monotonic() < self._next_send:
            return
        try:
            if time.monotonic() >= self._next_send:
                self.flush()
        except TrackingUnavailable as error:
            self._next_send = time.monotonic() + PAUSE_WHEN_DOWN_SECONDS
            log.warning("%s Keeping %d points meanwhile.", error, len(self._points))

    def flush(self) -> None:
        """Send every point not yet sent."""
        with connect(self.tracking_uri) as client:
            while self._points:
                client.log_batch(self.run_id, metrics=self._points[:MAX_METRICS_PER_REQUEST])
                del self._points[:MAX_METRICS_PER_REQUEST]
        self._next_send = time.monotonic() + SEND_EVERY_SECONDS

    def last_steps(self, names: Iterable[str]) -> dict[str, int]:
        """Return the last step of each of these metrics that the server has, which sends complete curves for that."""
        with connect(self.tracking_uri) as client:
            curves = {name: client.get_metric_history(self.run_id, name) for name in names}
        return {name: max(point.step for point in points) for name, points in curves.items() if points}

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Add a PNG to the image grid; return when it is stored. `key`: letters, digits, _ - . and /.

        ValueError when the file is not an image, which another attempt to send it would not change.
        """
        from PIL import Image, UnidentifiedImageError

        with connect(self.tracking_uri) as client:
            if self._images is None:
                self._images = _logged_images(client, self.run_id)
            if (key, step) in self._images:
                return
            try:
                with Image.open(path) as image:
                    image.load()
            except UnidentifiedImageError as error:
                raise ValueError(f"{path} is not an image") from error
            client.log_image(self.run_id, image, key=key, step=step, synchronous=True)
            self._images.add((key, step))

    def log_params(self, params: Mapping[str, str]) -> None:
        """Add the parameters that the run has not: MLflow refuses to change one."""
        from mlflow.entities import Param

        with connect(self.tracking_uri) as client:
            known = client.get_run(self.run_id).data.params
            new = [Param(name, value) for name, value in params.items() if name not in known]
            if new:
                client.log_batch(self.run_id, params=new)

    def show_pictures(self, pictures: Mapping[str, Any], caption: str) -> None:
        """Store pictures as artifacts by their paths, and show them in the run's description.

        The first is at its top, where it is seen before the description is unfolded; then `caption`, Markdown.
        The pages of MLflow's image grid print every parameter above each image, which leaves little of the image.
        """
        with connect(self.tracking_uri) as client:
            for artifact, image in pictures.items():
                client.log_image(self.run_id, image, artifact_file=artifact)
            tags = client.get_run(self.run_id).data.tags
            links = [f"[Run in Airflow]({tags[AIRFLOW_TAG]})"] if tags.get(AIRFLOW_TAG) else []
            first, *others = [
                f"![{artifact}](get-artifact?path={quote(artifact, safe='')}&run_uuid={self.run_id})"
                for artifact in pictures
            ]
            client.set_tag(self.run_id, NOTE_TAG, "\n\n".join([first, caption, *others, *links]))


def _logged_images(client: Any, run_id: str) -> set[tuple[str, int]]:
    """Return (key, step) of the images whose thumbnail, which MLflow writes last, exists."""
    pattern = re.compile(r"images/(.+)\+step\+(\d+)\+timestamp\+.*\+compressed\.webp$")
    matches = (pattern.match(item.path) for item in client.list_artifacts(run_id, "images"))
    return {(match[1].replace("~", "/"), int(match[2])) for match in matches if match}
