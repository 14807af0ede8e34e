"""Checks of this host and of the servers that it uses."""

import importlib.util
import shutil
import uuid

from pipelines.host import this_host
from pipelines.platform import health, services
from pipelines.platform.checks import clock
from pipelines.platform.checks.result import WARNING, Check, check
from pipelines.platform.compose import stack
from pipelines.project.file import load_projects
from pipelines.records.withdrawals import purge_series, unfinished_purges, withdrawal_series
from pipelines.release.registration import signing
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store
from pipelines.tracking import runs

MINIMUM_FREE_BYTES = 2 * 1024**3


def installation_checks(settings: Settings) -> list[Check]:
    """Check store, disk, MLflow, clocks, platform, packages, keys, the project files and the stack of containers."""
    found = [
        check("store", lambda: _store(settings), "Set PLUMBLINE_STORE_URI to a location that this user may write to."),
        check("disk", lambda: _disk(settings), "Free some space, or point PLUMBLINE_STATE_DIR at a larger disk."),
        check("tracking", lambda: _tracking(settings), "Start MLflow (`make up`) or correct MLFLOW_TRACKING_URI."),
        check("clock", lambda: clock.compare(settings), "Synchronise the clocks of these hosts, for instance by NTP."),
        check(
            "platform",
            lambda: health.describe_platform(settings),
            "Keep `plumbline up` running, which restarts its parts; else restart them, or `make down` and `make up`.",
        ),
        check("engine", _engine, "Install the packages of a training host (`pip install 'plumbline[gpu]'`)."),
        check("signing", lambda: signing.check_keys(settings), "Correct the keys; see docs/operations.md."),
        check("withdrawals", lambda: _withdrawals(open_store(settings.store_uri, settings)), "Run `plumbline purge`."),
        check("projects", lambda: _projects(settings), "Correct these files; the other projects are not affected."),
    ]
    if stack.is_prepared(services.ROOT):
        fix = "See docs/production.md, Docker compose."
        found.append(check("compose", lambda: stack.check_stack(services.ROOT), fix))
    return found


def _store(settings: Settings) -> str:
    """Write, read and delete an object; ValueError when the store loses or replaces it."""
    opened = open_store(settings.store_uri, settings)
    uri = opened.uri("doctor", f"{uuid.uuid4().hex}.txt")
    if not opened.create_bytes(uri, b"plumbline") or opened.read_bytes(uri) != b"plumbline":
        raise ValueError(f"{uri} was written, but different bytes were read.")
    if opened.create_bytes(uri, b"other"):
        raise ValueError(f"{uri} was replaced by a write on condition that it does not exist.")
    opened.delete(uri)
    return f"{settings.store_uri} can be written and read, and keeps an object that exists"


def _disk(settings: Settings) -> str:
    """Return the free space under the state dir; ValueError when it is too little for any job."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free
    text = f"{free / 1024**3:.1f} GiB free under {settings.state_dir}"
    if free < MINIMUM_FREE_BYTES:
        raise ValueError(f"{text}; checkpoints and images need at least {MINIMUM_FREE_BYTES / 1024**3:.0f} GiB")
    return text


def _tracking(settings: Settings) -> str:
    """Ask MLflow; warn about a database on this host beside a store that several hosts may use."""
    found = f"{runs.check_reachable(settings)} responds"
    if settings.store_uri.startswith("s3://") and settings.tracking_uri.startswith(("sqlite:", "file:")):
        found += (
            f"; {WARNING} it is a file of host {this_host()}, while other hosts may use the same store. Set"
            " MLFLOW_TRACKING_URI to a server if any do"
        )
    return found


def _engine() -> str:
    """Check that the packages of jobs are installed; ValueError names those that are not."""
    missing = [name for name in ("accelerate", "torch", "diffusers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"The local engine cannot start jobs on this host: {', '.join(missing)} not installed.")
    return "the local engine can start `accelerate launch`"


def _withdrawals(store: Store) -> str:
    """Count the withdrawals; warn about those after the last purge, whose pairs may still be stored."""
    unfinished = unfinished_purges(store)
    if unfinished:
        raise ValueError(f"The purge number {unfinished[-1].number} was interrupted, so some files are half deleted.")
    purged = [entry.at for entry in purge_series(store).entries() if entry.finishes is None]
    last = {str(entry.withdrawal): entry for entry in withdrawal_series(store).entries()}
    active = [entry for entry in last.values() if not entry.is_revoked]
    waiting = [entry for entry in active if not purged or entry.at > purged[-1]]
    text = f"withdrawals that hold: {len(active)}" if active else "nothing is withdrawn"
    if waiting:
        text += f"; {WARNING} {len(waiting)} came after the last purge, so their pairs may still be stored."
        text += " `plumbline purge` lists them"
    return text


def _projects(settings: Settings) -> str:
    """Load every project file, as Airflow does to make the DAGs; ValueError names the bad ones."""
    found, problems = load_projects(settings.projects_dir)
    if problems:
        raise ValueError(" ".join(problems))
    if not found:
        return f"no project file in {settings.projects_dir}"
    names = ", ".join(project.name for project in found)
    return f"{len(found)} project file{'s' * (len(found) > 1)} can be loaded: {names}"
