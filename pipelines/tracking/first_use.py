"""Make MLflow's database once, when several commands start together on an empty one.

MLflow migrates a database that it finds empty or old when its first request comes. It takes no lock, so that of several
processes all but one would fail half-way, for example with `duplicate column name`. Servers do this for themselves.
"""

import fcntl
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ready: set[str] = set()
"""Databases that this process has seen complete."""


def complete_database(tracking_uri: str, make_client: Callable[[], Any]) -> Any:
    """Return a client; one process of this host at a time creates or migrates its database.

    Nothing is locked for a server, nor for a database that this process has seen complete.
    """
    if tracking_uri in _ready or tracking_uri.startswith(("http://", "https://", "file:")):
        return make_client()
    with database_lock(tracking_uri):
        client = make_client()
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    _ready.add(tracking_uri)
    return client


@contextmanager
def database_lock(tracking_uri: str) -> Iterator[None]:
    """Keep the other processes of this host from creating or migrating the database."""
    path = _lock_path(tracking_uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock_path(tracking_uri: str) -> Path:
    """Return the file beside an SQLite database, else a file of this host for the address."""
    if tracking_uri.startswith("sqlite:///"):
        database = Path(tracking_uri.removeprefix("sqlite:///"))
        return database.with_name(f"{database.name}.lock")
    digest = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"plumbline-mlflow-{digest}.lock"
