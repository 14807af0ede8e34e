"""Restart the parts of the embedded platform that have ended, with growing pauses, and report each.

Airflow itself does not: when its triggerer ends, a task whose job has finished stays deferred for ever.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.platform import services
from pipelines.platform.services import Platform
from pipelines.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
STABLE_SECONDS = 300.0
"""Time after which a part that was restarted counts as sound, so that the pauses start again at none."""


@dataclass
class _Restarts:
    """Restarts of one part."""

    pause_seconds: float = 0.0
    not_before: float = 0.0
    last: float = float("-inf")


@dataclass
class Supervision:
    """Supervision of the platform of one state folder, by the process that started it."""

    settings: Settings
    report: Callable[[str], None] = log.warning
    _restarts: dict[str, _Restarts] = field(default_factory=dict)

    def check(self) -> bool:
        """Restart what has ended and may be restarted now; False when the platform was stopped."""
        with services.locked(self.settings):
            platform = services.read_platform(self.settings)
            if platform is None:
                return False
            for dead in platform.dead():
                if self._may_restart(dead.name):
                    try:
                        platform = self._restart(platform, dead.name)
                    except OSError as error:
                        self.report(f"{dead.name} has ended and could not be restarted; it is tried again. {error}")
        return True

    def _restart(self, platform: Platform, name: str) -> Platform:
        """Return the platform with a new process of this part, and record it."""
        dead = platform.service(name)
        left = services.kill_leftovers(dead, self.settings)
        fresh = services.spawn(name, self.settings, platform.ports)
        platform = platform.with_service(fresh)
        services.write_platform(self.settings, platform)
        also = f", {left} of its processes were killed" if left else ""
        ended = f"{name} (pid {dead.process.pid}) had ended{also}"
        self.report(f"{ended}; restarted as pid {fresh.process.pid}. Its log: {fresh.log_path}")
        return platform

    def _may_restart(self, name: str) -> bool:
        """Return True at the end of the pause before a restart; the first call for a dead part begins the pause."""
        now = time.monotonic()
        part = self._restarts.setdefault(name, _Restarts())
        if now - part.last > STABLE_SECONDS:
            part.pause_seconds = 0.0
        if not part.not_before:
            part.not_before = now + part.pause_seconds
        if now < part.not_before:
            return False
        part.pause_seconds = min(max(FIRST_PAUSE_SECONDS, 2 * part.pause_seconds), LONGEST_PAUSE_SECONDS)
        part.not_before, part.last = 0.0, now
        return True


@contextmanager
def running(settings: Settings, report: Callable[[str], None] = log.warning) -> Iterator[None]:
    """Supervise the platform in a thread while the body runs."""
    over = threading.Event()
    watch = Supervision(settings, report)

    def loop() -> None:
        while not over.wait(CHECK_SECONDS) and watch.check():
            pass

    thread = threading.Thread(target=loop, name="supervision", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
