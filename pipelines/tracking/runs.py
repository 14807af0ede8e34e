"""MLflow's runs: identity, live curves, images, artifacts. With registry.py the only file that names mlflow.

A run is looked up by its tag before it is created, so a retry continues the run that the first attempt opened. When two
tasks create the same run in the same instant, both use the earlier one. Requests to a server that does not respond are
repeated for about a quarter of a minute, then `TrackingUnavailable` names it (a server that accepts the request and
stays silent: after five minutes; MLFLOW_HTTP_REQUEST_TIMEOUT and ..._MAX_RETRIES change both).
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.values import canonical_json
from pipelines.contracts.jobs import TrackingTarget
from pipelines.settings import Settings
from pipelines.tracking.errors import explained, without_password
from pipelines.tracking.first_use import complete_database

log = logging.getLogger(__name__)

RUN_KEY_TAG = "plumbline.run_key"
JOB_ID_TAG = "plumbline.job_id"
KIND_TAG = "plumbline.kind"
CONFIG_TAG = "plumbline.config_logged"
OUTPUT_TAG = "plumbline.output_uri"
"""Address of a job's output, by which the run is found that made some weights."""
_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow open an experiment on its training runs; by default it opens its GenAI pages."""
PARENT_TAG = "mlflow.parentRunId"
ENGINE_TAG = "plumbline.engine"
HOST_TAG = "plumbline.host"
"""Host and state dir from which a job was submitted; only there the engine `local` knows it."""
DATA_REPORT_TAG = "data_report.snapshot"
"""Digest of the snapshot whose data report is among the run's artifacts; of several, the newest."""
_DIGEST_CHARACTERS = 36
"""Length of a dataset's digest in MLflow."""
AIRFLOW_TAG = "airflow.ui_url"
NOTE_TAG = "mlflow.note.content"
"""Markdown that MLflow shows as a run's description."""
MAX_PARAM_CHARS = 500
MAX_PARAMS_PER_REQUEST = 100

# MLflow is configured through the environment alone, and reads most of it at each request.
_FIXED_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output is for a command's one JSON value; MLflow would print addresses of runs there.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_DEFAULT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


# --- connection -----------------------------------------------------------------------------------------------------


@contextmanager
def connect(tracking_uri: str) -> Iterator[Any]:
    """Return an MlflowClient whose silence becomes TrackingUnavailable, a refusal TrackingRefused, the rest
    RuntimeError.
    """
    make_client = load_client()
    try:
        yield complete_database(tracking_uri, partial(make_client, tracking_uri, tracking_uri))
    except Exception as error:
        instead = explained(error, tracking_uri)
        if instead is None:
            raise
        raise instead from error


def load_client() -> Any:
    """Import MLflow with our environment and return its client class.

    MLflow's modules import each other in a circle. A process whose threads use it must call this before they start:
    two first imports at the same time end in a deadlock, and MLflow then stays half imported.
    """
    os.environ.update(_FIXED_ENVIRONMENT)
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient


def check_reachable(settings: Settings) -> str:
    """Send the server an API request (its /health responds even to hosts that it refuses); return what responded."""
    with connect(settings.tracking_uri) as client:
        client.search_experiments(max_results=1)
    return without_password(settings.tracking_uri)


# --- runs -----------------------------------------------------------------------------------------------------------


def parent_run(settings: Settings, *, project: str, key: str, tags: Mapping[str, str]) -> str:
    """Return the run id of a pipeline run, looked up by its key before it is created; the experiment is the project."""
    if settings.git_sha:
        tags = {"git.sha": settings.git_sha, **tags}
    if AIRFLOW_TAG in tags:
        tags = {NOTE_TAG: f"[Run in Airflow]({tags[AIRFLOW_TAG]})", **tags}
    with connect(settings.tracking_uri) as client:
        experiment = _experiment(client, settings, project)
        return _find_or_create(client, experiment, (RUN_KEY_TAG, key), name=_run_name(key), tags=tags)


def _run_name(run_key: str) -> str:
    """Return the name shown in MLflow: the DAG and the minute of its run; any other key unchanged."""
    found = re.match(r"([^/]+)/\w+?__(\d{4}-\d\d-\d\d)T(\d\d:\d\d)", run_key)
    return f"{found[1]} {found[2]} {found[3]}" if found else run_key


def airflow_tags(settings: Settings, run_key: str) -> dict[str, str]:
    """Return tags that lead from a run back to the Airflow run `DAG_ID/RUN_ID` it belongs to; none for other keys."""
    dag_id, _, run_id = run_key.partition("/")
    if not run_id:
        return {}
    tags = {"airflow.dag_id": dag_id, "airflow.run_id": run_id}
    if settings.airflow_ui_url:
        tags[AIRFLOW_TAG] = f"{settings.airflow_ui_url}/dags/{dag_id}/runs/{run_id}"
    return tags


def job_run(
    settings: Settings,
    *,
    project: str,
    request_job_id: str,
    kind: str,
    parent_key: str,
    config: Mapping[str, Any],
    tags: Mapping[str, str] = {},
    name: str = "",
) -> TrackingTarget:
    """Return the run of one job under its pipeline run, looked up by the job id before it is created.

    `name` is the run's name for people; by default the job id.
    `config` is logged once: everything but placement as params (500 characters each; a recipe's under the names by
    which it is overridden), and completely as config.json. A retry with another config (placement may change) keeps the
    first.
    """
    parent = parent_run(settings, project=project, key=parent_key, tags={})
    with connect(settings.tracking_uri) as client:
        own = {KIND_TAG: kind, PARENT_TAG: parent, **tags}
        experiment = _experiment(client, settings, project)
        identity = (JOB_ID_TAG, request_job_id)
        run_id = _find_or_create(client, experiment, identity, name=name or request_job_id, tags=own)
        if CONFIG_TAG not in client.get_run(run_id).data.tags:
            _log_config(client, run_id, config)
    return TrackingTarget(run_id=run_id)


def _experiment(client: Any, settings: Settings, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        served = settings.tracking_uri.startswith("http")
        # Without a server MLflow would put artifacts into the working directory.
        location = None if served else (settings.mlflow_dir / "artifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise ValueError(
            f"MLflow experiment {name!r} (id {experiment.experiment_id}) is deleted. Restore it with"
            f" `mlflow experiments restore -x {experiment.experiment_id}`, or rename the project."
        )
    for tag, value in _EXPERIMENT_KIND.items():
        if tag not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    return str(experiment.experiment_id)


def _find_or_create(
    client: Any, experiment_id: str, identity: tuple[str, str], *, name: str, tags: Mapping[str, str]
) -> str:
    """Return the earliest run with this tag, set back to RUNNING if an earlier attempt failed."""
    found = _first_run(client, experiment_id, identity)
    if found is None:
        made = client.create_run(experiment_id, tags={**tags, identity[0]: identity[1]}, run_name=name).info.run_id
        winner = _first_run(client, experiment_id, identity)
        if winner is not None and winner.info.run_id != made:
            client.delete_run(made)
            return str(winner.info.run_id)
        return str(made)
    run_id = str(found.info.run_id)
    for tag, value in tags.items():
        if tag != PARENT_TAG and found.data.tags.get(tag) != value:
            client.set_tag(run_id, tag, value)
    if found.info.status in {"FAILED", "KILLED"}:
        client.update_run(run_id, status="RUNNING")
    return run_id


def _first_run(client: Any, experiment_id: str, identity: tuple[str, str]) -> Any:
    tag, value = identity
    if "'" in value:
        raise ValueError(
            f"{tag} {value!r} contains a quote, which MLflow cannot search for. Use letters, digits and _-.:+."
        )
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    runs = client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=1, order_by=order)
    return runs[0] if runs else None


def _log_config(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    short = {name.removeprefix("spec.").removeprefix("recipe."): value for name, value in _flatten(config).items()}
    params = [Param(name, value) for name, value in short.items() if _is_param(name, value)]
    client.log_dict(run_id, dict(config), "config.json")
    for start in range(0, len(params), MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS_PER_REQUEST])
    client.set_tag(run_id, CONFIG_TAG, "true")


def _is_param(name: str, value: str) -> bool:
    """Return True for science that was set. Each param is a line above every picture of MLflow's image grid."""
    return not name.startswith("placement.") and not name.endswith("schema_version") and value != "null"


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested tables to dotted names and readable values, each cut to what MLflow shows well."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else canonical_json(value)
            flat[f"{prefix}{name}"] = text if len(text) <= MAX_PARAM_CHARS else f"{text[: MAX_PARAM_CHARS - 3]}..."
    return flat


def finish_run(settings: Settings, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """Close a run; a run left RUNNING by a lost host stays RUNNING until this is called."""
    with connect(settings.tracking_uri) as client:
        client.set_terminated(run_id, status)


def run_tags(settings: Settings, run_id: str) -> dict[str, str]:
    """Return tags of a run over those of its parent, without MLflow's own."""
    with connect(settings.tracking_uri) as client:
        own = client.get_run(run_id).data.tags
        parent = client.get_run(own[PARENT_TAG]).data.tags if PARENT_TAG in own else {}
    return {name: value for name, value in {**parent, **own}.items() if not name.startswith("mlflow.")}


def log_params(settings: Settings, run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters that the run does not have yet; MLflow lets none change."""
    from mlflow.entities import Param

    with connect(settings.tracking_uri) as client:
        known = client.get_run(run_id).data.params
        fresh = [Param(name, value[:MAX_PARAM_CHARS]) for name, value in params.items() if name not in known]
        if fresh:
            client.log_batch(run_id, params=fresh)


def name_by_version(settings: Settings, project: str, *, output_uri: str, version: int) -> None:
    """Add the version to the names of the runs that made the weights in `output_uri`."""
    with connect(settings.tracking_uri) as client:
        for run in _runs_of_output(client, settings, project, output_uri):
            name, ending = run.info.run_name, f", v{version}"
            if not name.endswith(ending):
                client.update_run(run.info.run_id, name=f"{name}{ending}")


def share_dataset(settings: Settings, project: str, run_id: str, *, output_uri: str, digest: str) -> None:
    """Log the dataset with this digest, if it is an input of run `run_id`, for the runs that made `output_uri` too."""
    with connect(settings.tracking_uri) as client:
        inputs = client.get_run(run_id).inputs.dataset_inputs
        same = [own for own in inputs if own.dataset.digest == digest[:_DIGEST_CHARACTERS]]
        for run in _runs_of_output(client, settings, project, output_uri) if same else []:
            client.log_inputs(run.info.run_id, same)


def _runs_of_output(client: Any, settings: Settings, project: str, output_uri: str) -> list[Any]:
    experiment = _experiment(client, settings, project)
    return list(client.search_runs([experiment], f"tags.`{OUTPUT_TAG}` = '{output_uri}'"))


def set_run_tags(settings: Settings, run_id: str, tags: Mapping[str, str]) -> None:
    """Set or replace tags of a run."""
    with connect(settings.tracking_uri) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def log_artifacts(settings: Settings, run_id: str, path: Path, folder: str = "") -> None:
    """Upload a file, or the contents of a folder, under `folder` of the run's artifacts; same names are replaced."""
    with connect(settings.tracking_uri) as client:
        upload = client.log_artifacts if path.is_dir() else client.log_artifact
        upload(run_id, str(path), folder or None)


def log_text(settings: Settings, run_id: str, text: str, artifact: str) -> None:
    """Write a text artifact; MLflow renders .html, .md and .txt on its page of the run."""
    with connect(settings.tracking_uri) as client:
        client.log_text(run_id, text, artifact)


def log_dict(settings: Settings, run_id: str, value: Mapping[str, Any], artifact: str) -> None:
    """Write a JSON artifact."""
    with connect(settings.tracking_uri) as client:
        client.log_dict(run_id, dict(value), artifact)


def log_dataset(settings: Settings, run_id: str, snapshot: DatasetSnapshot, context: str, *, page: str = "") -> None:
    """Log the snapshot as an input of the run. The profile has its whole digest.

    `page` is the address of the snapshot's data report. MLflow's page of the run shows the `url` of a source of type
    `http` as a link, and nothing of a type that it does not know.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"uri": snapshot.uri, **({"url": page} if page else {})}
    dataset = Dataset(
        name="pairs",
        digest=snapshot.content_digest[:_DIGEST_CHARACTERS],
        source_type="http" if page else "plumbline",
        source=json.dumps(source),
        profile=json.dumps(snapshot.model_dump(mode="json", exclude={"uri", "batch_digests"})),
    )
    with connect(settings.tracking_uri) as client:
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
        client.set_tag(run_id, "snapshot.digest", snapshot.content_digest)


def finish_if_open(settings: Settings, *, project: str, key: str) -> None:
    """Close the run of a pipeline run that ends early; do nothing if it has none."""
    with connect(settings.tracking_uri) as client:
        experiment = client.get_experiment_by_name(project)
        found = _first_run(client, experiment.experiment_id, (RUN_KEY_TAG, key)) if experiment else None
        if found is not None and found.info.status == "RUNNING":
            client.set_terminated(found.info.run_id, "FINISHED")
