"""Read Settings from the environment, once at the edge. The only file that reads environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from alignment.contracts.values import Record

ANNOTATOR_SALT = "PLUMBLINE_ANNOTATOR_SALT"
SIGNING_KEY = "PLUMBLINE_SIGNING_KEY"
SIGNING_KEY_PASSWORD = "PLUMBLINE_SIGNING_KEY_PASSWORD"
AIRFLOW_USER = "PLUMBLINE_AIRFLOW_USER"
AIRFLOW_PASSWORD = "PLUMBLINE_AIRFLOW_PASSWORD"
AIRFLOW_DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
MLFLOW_DATABASE = "MLFLOW_BACKEND_STORE_URI"
CONTROL_PLANE_ONLY = (
    *(ANNOTATOR_SALT, SIGNING_KEY, SIGNING_KEY_PASSWORD),
    *(AIRFLOW_USER, AIRFLOW_PASSWORD, AIRFLOW_DATABASE, MLFLOW_DATABASE),
)
"""Variables that a job on a training host never receives."""


class Settings(Record):
    """Locations and secrets of this installation. Secrets are SecretStr, so they never reach a log or a repr."""

    store_uri: str
    """Root of the object store, `file:///...` or `s3://bucket/prefix` (PLUMBLINE_STORE_URI)."""
    tracking_uri: str = Field(repr=False)
    """MLflow server (MLFLOW_TRACKING_URI); by default the embedded server's database, whether that runs or not. The
    address of a database may contain a password.
    """
    state_dir: Path
    """Local state of this host: job folders, input cache, logs (PLUMBLINE_STATE_DIR)."""
    cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Limit of the input cache under `state_dir`, in GiB; unlimited if unset (PLUMBLINE_CACHE_GIB)."""
    projects_dir: Path
    """Folder of the project files (PLUMBLINE_PROJECTS_DIR)."""
    s3_endpoint_url: str | None = None
    """An S3-compatible server instead of AWS (AWS_ENDPOINT_URL)."""
    annotator_salt: SecretStr = SecretStr("")
    """Key of the hash that stands for an annotator (PLUMBLINE_ANNOTATOR_SALT)."""
    airflow_ui_url: str = ""
    """Airflow's address, linked from MLflow runs, queried for paused DAGs and the pool (PLUMBLINE_AIRFLOW_UI_URL)."""
    mlflow_ui_url: str = ""
    """MLflow's address for a browser, linked from Airflow and logs; empty: `tracking_uri` if it is a server's
    (PLUMBLINE_MLFLOW_UI_URL)."""
    airflow_user: str = ""
    """User that queries Airflow's API; needs to read DAGs and pools only, but for `plumbline setup-airflow`
    (PLUMBLINE_AIRFLOW_USER)."""
    airflow_password: SecretStr = SecretStr("")
    """Password of that user (PLUMBLINE_AIRFLOW_PASSWORD)."""
    airflow_database: SecretStr = SecretStr("")
    """Database of the embedded Airflow, an SQLAlchemy address; empty: SQLite (AIRFLOW__DATABASE__SQL_ALCHEMY_CONN)."""
    mlflow_database: SecretStr = SecretStr("")
    """Database of the embedded MLflow, an SQLAlchemy address; empty: SQLite (MLFLOW_BACKEND_STORE_URI)."""
    ray_address: str = ""
    """Address of the Ray cluster's dashboard, e.g. http://ray-head:8265 (PLUMBLINE_RAY_ADDRESS)."""
    ray_token: SecretStr = SecretStr("")
    """Token of that cluster, started with RAY_AUTH_MODE=token (RAY_AUTH_TOKEN)."""
    hub_token: SecretStr = SecretStr("")
    """Token of the Hugging Face Hub, for pushes (HF_TOKEN)."""
    hub_endpoint: str = ""
    """Another server with the hub's API; empty: huggingface.co (HF_ENDPOINT)."""
    git_sha: str = ""
    """Revision of the deployed code (PLUMBLINE_GIT_SHA)."""
    signing_key: Path | None = None
    """Private elliptic-curve key, PEM, that signs registered weights (PLUMBLINE_SIGNING_KEY)."""
    signing_key_password: SecretStr = SecretStr("")
    """Password of an encrypted signing key (PLUMBLINE_SIGNING_KEY_PASSWORD)."""
    verify_key: Path | None = None
    """Public key, PEM; if set, only weights with its signature become champion (PLUMBLINE_VERIFY_KEY)."""

    @property
    def mlflow_pages(self) -> str:
        """Address of MLflow's pages in a browser; empty without a server."""
        served = self.tracking_uri if self.tracking_uri.startswith(("http://", "https://")) else ""
        return (self.mlflow_ui_url or served).rstrip("/")

    @property
    def mlflow_dir(self) -> Path:
        """Database and artifacts of the embedded MLflow."""
        return self.state_dir / "mlflow"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment; anything unset falls back to the embedded default under `.plumbline/`."""
    env = os.environ if environ is None else environ
    state_dir = Path(env.get("PLUMBLINE_STATE_DIR", ".plumbline")).absolute()
    mlflow_database = env.get(MLFLOW_DATABASE, "")
    return Settings(
        store_uri=env.get("PLUMBLINE_STORE_URI", (state_dir / "store").as_uri()).rstrip("/"),
        tracking_uri=_tracking_uri(
            env.get("MLFLOW_TRACKING_URI") or mlflow_database or f"sqlite:///{state_dir / 'mlflow' / 'mlflow.db'}"
        ),
        state_dir=state_dir,
        cache_gib=_number(env.get("PLUMBLINE_CACHE_GIB")),
        projects_dir=Path(env.get("PLUMBLINE_PROJECTS_DIR", "projects")).absolute(),
        s3_endpoint_url=env.get("AWS_ENDPOINT_URL"),
        annotator_salt=SecretStr(env.get(ANNOTATOR_SALT, "")),
        airflow_ui_url=env.get("PLUMBLINE_AIRFLOW_UI_URL", ""),
        mlflow_ui_url=env.get("PLUMBLINE_MLFLOW_UI_URL", ""),
        airflow_user=env.get(AIRFLOW_USER, ""),
        airflow_password=SecretStr(env.get(AIRFLOW_PASSWORD, "")),
        airflow_database=SecretStr(env.get(AIRFLOW_DATABASE, "")),
        mlflow_database=SecretStr(mlflow_database),
        ray_address=env.get("PLUMBLINE_RAY_ADDRESS", "").rstrip("/"),
        ray_token=SecretStr(env.get("RAY_AUTH_TOKEN", "")),
        hub_token=SecretStr(env.get("HF_TOKEN", "")),
        hub_endpoint=env.get("HF_ENDPOINT", "").rstrip("/"),
        git_sha=env.get("PLUMBLINE_GIT_SHA", ""),
        signing_key=_path(env.get(SIGNING_KEY)),
        signing_key_password=SecretStr(env.get(SIGNING_KEY_PASSWORD, "")),
        verify_key=_path(env.get("PLUMBLINE_VERIFY_KEY")),
    )


def _tracking_uri(address: str) -> str:
    """Return the address; ValueError if it is a server's and contains a log-in, which MLflow's errors would repeat."""
    scheme = address.partition("://")[0]
    if scheme in ("http", "https") and "@" in address:
        raise ValueError(
            f"MLFLOW_TRACKING_URI contains a log-in. Set it to {scheme}://{address.rpartition('@')[2]}, and set"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    return address


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ValueError(f"PLUMBLINE_CACHE_GIB is {text!r}. Give a number of GiB, such as 50.") from error


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None
