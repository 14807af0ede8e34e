"""Temporary folders of intake under the state folder, each held by its process until it is deleted.

A process that is killed leaves its folder. The next one that needs such a folder, or begins a run, deletes it: the
kernel ended the hold together with the process, however it died.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.settings import Settings
from pipelines.store.folders import NoSpaceError, NotWritableError, locked, remove_if_free, space_for
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

_VARIABLE = "PLUMBLINE_STATE_DIR"
_WRITTEN = ("raw", "snapshots", "data_report_pages")
"""Folders of the store that intake writes. A store may hold millions of other files."""


@contextmanager
def scratch_dir(settings: Settings) -> Iterator[Path]:
    """Make a temporary folder under the state folder and delete it afterwards; ValueError when it cannot be made.

    NoSpaceError when its disk is full, also while the folder is used.
    """
    with space_for(_parent(settings), _VARIABLE), ExitStack() as stack:
        with _all_scratch(settings) as parent:
            _remove_abandoned(parent)
            folder = Path(tempfile.mkdtemp(dir=parent))
            stack.enter_context(locked(folder, folder=True))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _parent(settings: Settings) -> Path:
    return settings.state_dir / "scratch"


def remove_left_over(settings: Settings, store: Store) -> None:
    """Delete what killed processes of this host left: temporary folders, and partial files of a store on a disk."""
    with _all_scratch(settings) as parent:
        found = _remove_abandoned(parent)
    found += store.remove_abandoned(*_WRITTEN)
    if found:
        log.info("Deleted what processes that were killed had left: %d folders and partial files.", found)


def _remove_abandoned(parent: Path) -> int:
    return sum(remove_if_free(folder) for folder in list(parent.iterdir()))


@contextmanager
def _all_scratch(settings: Settings) -> Iterator[Path]:
    """Hold the right to make temporary folders and to delete those of dead processes.

    So no process sees a folder of another before that one holds it.
    """
    parent = _parent(settings)
    try:
        with space_for(parent, _VARIABLE):
            parent.mkdir(parents=True, exist_ok=True)
    except NoSpaceError:
        raise
    except OSError as error:
        raise NotWritableError(
            f"State folder {settings.state_dir} cannot be created: {error.strerror}. Set {_VARIABLE} to a writable"
            " folder."
        ) from error
    with locked(parent, folder=True):
        yield parent
