"""Find out if the store and MLflow can be reached, without creating either."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import runs

__all__ = ["store_problem", "tracking_problem"]

_SQLITE = "sqlite:///"
_NOTHING_YET = "Nothing was ingested or trained with these settings yet, or {names} is wrong."


def store_problem(settings: Settings) -> str:
    """Return the reason why the store cannot be read; empty when it can. Nothing is written."""
    uri = settings.store_uri
    try:
        store = open_store(uri, settings)
        if store.root.startswith("file://") and not Path(unquote(urlsplit(store.root).path)).is_dir():
            names = "PLUMBLINE_STORE_URI or PLUMBLINE_STATE_DIR"
            return f"There is no store at {uri}. {_NOTHING_YET.format(names=names)}"
        store.exists(store.uri("ledger"))
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    return ""


def tracking_problem(settings: Settings) -> str:
    """Return the reason why MLflow cannot be asked; empty when it can. A database that does not exist is not made."""
    uri = settings.tracking_uri
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        names = "MLFLOW_TRACKING_URI or PLUMBLINE_STATE_DIR"
        return f"MLflow has no database at {uri.removeprefix(_SQLITE)}. {_NOTHING_YET.format(names=names)}"
    try:
        runs.check_reachable(settings)
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    return ""
