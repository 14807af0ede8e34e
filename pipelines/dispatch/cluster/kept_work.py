"""Unfinished work of a job, kept in the object store so that another node can continue it.

A save publishes the files that changed as one folder, and then replaces the rank's listing, which maps every path to
the folder that holds it. A listing is therefore complete or the one before, and a checkpoint is in it with everything
written before the checkpoint. Folders that no listing needs are deleted.

WORK_URI/rank-00000.json               the listing of rank 0
WORK_URI/rank-00000/00000001-abc12345/ files of one save
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from alignment.contracts.jobs import FAILURE_FILE, PROGRESS_FILE
from alignment.contracts.values import Record
from alignment.files.paths import resolve_below
from pipelines.store.folders import sha256_file
from pipelines.store.storage import Store

log = logging.getLogger(__name__)

_NOT_KEPT = {"spec.json", "placement.json", "accelerate.json", f"out/{PROGRESS_FILE}", f"out/{FAILURE_FILE}"}
_NOT_ENTERED = {"inputs", "saving"}
_GROWING = (".jsonl",)
"""Files that a job appends to. They are copied, and alone are no reason to save: they belong to a checkpoint."""
_NO_REASON = {"tracking_cursor.json", "effort.json"}


class _Kept(Record):
    """A file that is kept: the published folder that holds it, and the state of the local file that was saved."""

    folder: str
    sha256: str
    num_bytes: int


class KeptWork:
    """The work folder of one rank and its copy in the store."""

    def __init__(
        self,
        store: Store,
        uri: str,
        work_dir: Path,
        *,
        rank: int = 0,
        is_superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_superseded` returns True once a later attempt owns the kept work; nothing is saved from then on."""
        self._store = store
        self._uri = uri
        self._work_dir = work_dir
        self._rank = rank
        self._is_superseded = is_superseded
        self._listing: dict[str, _Kept] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        """Size and modification time of each local file when it was last saved or fetched."""
        self._saves = 0

    def gather(self) -> None:
        """Put the listings of all ranks into that of rank 0: the number of ranks may differ now."""
        found = [uri for uri in self._store.list_uris(self._uri) if self._is_listing(uri)]
        merged: dict[str, _Kept] = {}
        for uri in reversed(found):
            merged |= self._read(uri)
        if found:
            self._write(self._listing_uri(0), merged)
        for uri in found:
            if uri != self._listing_uri(0):
                self._store.delete(uri)

    def restore(self) -> None:
        """Make the work folder equal to the kept one. Files that are here with the right bytes are not fetched."""
        kept = self._read(self._listing_uri(0))
        for path in list(self._files()):
            wanted = kept.get(self._name(path))
            if wanted is None or path.stat().st_size != wanted.num_bytes or sha256_file(path) != wanted.sha256:
                path.unlink()
        missing = {name: entry for name, entry in kept.items() if not (self._work_dir / name).is_file()}
        for folder in sorted({entry.folder for entry in missing.values()}):
            self._fetch(folder, [name for name, entry in missing.items() if entry.folder == folder])
        self._seen = {name: _stamp(self._work_dir / name) for name in kept}
        self._listing = kept if self._rank == 0 else {}
        if kept:
            log.info("%d files of unfinished work are here, %d of them fetched", len(kept), len(missing))

    def save(self, *, complete: bool = False) -> bool:
        """Keep what changed since the last save; return True when something was written.

        Files that only grow are saved with others, or when `complete`.
        """
        present = {self._name(path): path for path in self._files()}
        changed = [name for name, path in present.items() if self._seen.get(name) != _stamp(path)]
        gone = [name for name in self._listing if name not in present]
        reason = complete or any(not _is_growing(name) for name in changed)
        if ((not changed or not reason) and not gone) or self._is_superseded():
            return False
        if changed and reason:
            self._publish(changed)
        for name in gone:
            del self._listing[name]
        self._write(self._listing_uri(self._rank), self._listing)
        self._drop_unused()
        return True

    def delete(self) -> None:
        """Delete everything kept: the job is finished."""
        for uri in self._store.list_uris(self._uri):
            self._store.delete(uri)

    def _publish(self, names: list[str]) -> None:
        """Publish local files as one folder. Hard links hold the files as they are now, whatever the job does next."""
        draft = self._work_dir / "saving"
        shutil.rmtree(draft, ignore_errors=True)
        self._saves += 1
        folder = f"rank-{self._rank:05d}/{self._saves:08d}-{uuid.uuid4().hex[:8]}"
        stamps = {}
        # Checkpoints first: what they rely on was written before them, so it is in the copies made after.
        for name in sorted(names, key=lambda name: (not name.startswith("out/checkpoints/"), name)):
            stamp = _take(self._work_dir / name, draft / name)
            if stamp is not None:
                stamps[name] = stamp
        if stamps:
            manifest = self._store.publish_folder(draft, f"{self._uri}/{folder}", {})
            for name, stamp in stamps.items():
                if _stamp(draft / name) != stamp and not name.endswith(_GROWING):
                    continue  # the job wrote to it meanwhile; the next save takes it again
                entry = manifest.files[name]
                self._listing[name] = _Kept(folder=folder, sha256=entry.sha256, num_bytes=entry.num_bytes)
                self._seen[name] = stamp
        shutil.rmtree(draft, ignore_errors=True)

    def _fetch(self, folder: str, names: list[str]) -> None:
        draft = self._work_dir / "saving"
        shutil.rmtree(draft, ignore_errors=True)
        self._store.fetch_folder(f"{self._uri}/{folder}", draft, only=names)
        for name in names:
            target = resolve_below(self._work_dir, name, folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(target)
        shutil.rmtree(draft, ignore_errors=True)

    def _drop_unused(self) -> None:
        """Delete this rank's folders that its listing no longer names."""
        own = f"{self._uri}/rank-{self._rank:05d}"
        used = {entry.folder for entry in self._listing.values()}
        for uri in self._store.list_uris(own):
            if "/".join(uri.removeprefix(f"{self._uri}/").split("/")[:2]) not in used:
                self._store.delete(uri)

    def _files(self) -> Iterator[Path]:
        """List the files of the work folder that are kept."""
        for root, folders, names in os.walk(self._work_dir):
            at_top = Path(root) == self._work_dir
            folders[:] = [f for f in folders if not f.startswith(".") and not (at_top and f in _NOT_ENTERED)]
            for name in sorted(names):
                path = Path(root) / name
                if not name.startswith(".") and not path.is_symlink() and self._name(path) not in _NOT_KEPT:
                    yield path

    def _name(self, path: Path) -> str:
        return path.relative_to(self._work_dir).as_posix()

    def _is_listing(self, uri: str) -> bool:
        rest = uri.removeprefix(f"{self._uri}/")
        return "/" not in rest and rest.startswith("rank-") and rest.endswith(".json")

    def _listing_uri(self, rank: int) -> str:
        return f"{self._uri}/rank-{rank:05d}.json"

    def _read(self, uri: str) -> dict[str, _Kept]:
        if not self._store.exists(uri):
            return {}
        entries = json.loads(self._store.read_bytes(uri))
        return {name: _Kept.model_validate(entry) for name, entry in entries.items()}

    def _write(self, uri: str, listing: dict[str, _Kept]) -> None:
        entries = {name: entry.model_dump(mode="json") for name, entry in sorted(listing.items())}
        self._store.write_bytes(uri, json.dumps(entries).encode())


def _is_growing(name: str) -> bool:
    return name.endswith(_GROWING) or name in _NO_REASON


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _take(path: Path, target: Path) -> tuple[int, int] | None:
    """Copy or link a file into the draft; return its stamp, None when the job has deleted it since."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        stamp = _stamp(path)
        if path.name.endswith(_GROWING):
            shutil.copyfile(path, target)
        else:
            os.link(path, target)
    except FileNotFoundError:
        return None
    return stamp
