"""Serve the metrics to Prometheus. Each source has a thread that reads it; a scrape only returns what was last read.

So a slow store delays no scrape, and a source that fails hides only its samples: `plumbline_exporter_source_up` is 0
for it, and its last samples are dropped, because nobody has seen that they still hold.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.platform.exporter.catalogue import SOURCES, Source
from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.project.file import Project, load_projects
from pipelines.settings import Settings
from pipelines.tracking.runs import load_client

log = logging.getLogger(__name__)

_UP = Metric("plumbline_exporter_source_up", "1 if the last reading of a source succeeded.", ("source", "project"))
_READ_AT = Metric(
    "plumbline_exporter_source_read_timestamp_seconds", "Time of the last reading.", ("source", "project")
)
_SECONDS = Metric("plumbline_exporter_source_read_seconds", "Duration of the last reading.", ("source", "project"))
_BAD_PROJECTS = Metric("plumbline_exporter_unreadable_projects", "Project files that cannot be loaded.")
METRICS = (_UP, _READ_AT, _SECONDS, _BAD_PROJECTS)

_Key = tuple[str, str]


@dataclass
class Exporter:
    """The last samples of each source and project, and the threads that renew them."""

    settings: Settings
    sources: Sequence[Source] = SOURCES
    _samples: dict[_Key, tuple[Sample, ...]] = field(default_factory=dict)
    _memories: dict[_Key, dict[str, Any]] = field(default_factory=dict)
    _faults: dict[_Key, str] = field(default_factory=dict)
    _problems: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start a thread for each source."""
        load_client()
        for source in self.sources:
            threading.Thread(target=self._keep_reading, args=(source,), name=source.name, daemon=True).start()

    def stop(self) -> None:
        """Let the threads end after their present reading."""
        self._stopping.set()

    def read(self, source: Source) -> None:
        """Read one source now, for each project."""
        projects: list[Project | None] = [None]
        if source.per_project:
            loaded, problems = load_projects(self.settings.projects_dir)
            projects, self._problems = [*loaded], len(problems)
        keys = {(source.name, project.name if project else ""): project for project in projects}
        for key, project in keys.items():
            self._samples[key] = self._read_one(source, key, project)
        for key in [key for key in self._samples if key[0] == source.name and key not in keys]:
            del self._samples[key]

    def samples(self) -> list[Sample]:
        """Return the last samples of every source, and those about the exporter."""
        return [*(sample for part in list(self._samples.values()) for sample in part), _BAD_PROJECTS.of(self._problems)]

    def _read_one(self, source: Source, key: _Key, project: Project | None) -> tuple[Sample, ...]:
        started = time.monotonic()
        found: Sequence[Sample] = ()
        try:
            found, up = source.read(Reading(self.settings, project, self._memories.setdefault(key, {}))), True
        except Exception as error:  # A fault in one source may hide no other.
            self._warn(key, str(error))
            up = False
        else:
            self._faults.pop(key, None)
        took = _SECONDS.of(time.monotonic() - started, *key)
        return (*found, _UP.of(up, *key), _READ_AT.of(time.time(), *key), took)

    def _warn(self, key: _Key, fault: str) -> None:
        """Log a fault when it begins or changes."""
        if self._faults.get(key) != fault:
            log.warning("Source %s of %s cannot be read: %s", key[0], key[1] or "the installation", fault)
        self._faults[key] = fault

    def _keep_reading(self, source: Source) -> None:
        while True:
            self.read(source)
            if self._stopping.wait(source.every_seconds):
                return


def serve(settings: Settings, *, host: str, port: int) -> int:
    """Serve the metrics until Ctrl-C or SIGTERM; return the exit code."""
    exporter = Exporter(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server, thread = listen(exporter, host=host, port=port)
    exporter.start()
    log.info("Metrics at http://%s:%d/metrics", host, server.server_port)
    stop.wait()
    exporter.stop()
    server.shutdown()
    thread.join()
    return 0


def listen(exporter: Exporter, *, host: str, port: int) -> tuple[Any, threading.Thread]:
    """Answer scrapes in a thread; return the server and the thread. Port 0 picks a free one.

    RuntimeError when the client library of Prometheus is not installed, ValueError when the port is in use.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise RuntimeError("The exporter needs prometheus-client. Run `pip install 'plumbline[cluster]'`.") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(exporter))
    try:
        return start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be used ({error.strerror}). Give another --host or --port.") from error


class _Collector:
    """Gives the samples of an exporter to prometheus_client."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        for metric, labels, value in self._exporter.samples():
            kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
            family = families.get(metric.name) or kind(metric.name, metric.help, labels=metric.labels)
            families[metric.name] = family
            family.add_metric(labels, value)
        yield from families.values()
