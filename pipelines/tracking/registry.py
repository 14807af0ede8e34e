"""MLflow's registered models: versions with tags, and aliases. With runs.py the only file that names mlflow."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.settings import Settings
from pipelines.tracking.runs import OUTPUT_TAG, connect

WEIGHTS_TAG = "weights.digest"
LOGGED_MODEL = "models:/m-"
SERVED_WEIGHTS = "artifacts/weights"
"""Path of the weights in the folder that MLflow serves."""
_ALIAS_EXISTS = re.compile(r"(unique|duplicate key).*registered_model_alias", re.IGNORECASE | re.DOTALL)
"""Refusal of a second row for an alias, by PostgreSQL, SQLite or MySQL."""


class _ServedFlavor:
    """The members that `Model.log` needs of a flavor. LoRA weights also get the `diffusers` flavor, so that
    `mlflow.diffusers` loads them; its own log_model would import diffusers and peft, which a control plane does not
    have.
    """

    def __init__(self, kind: Literal["lora", "full"], seal: "Seal") -> None:
        self.kind = kind
        self.seal = seal
        self.tags: dict[str, str] = {}
        self.__name__ = "diffusers" if kind == "lora" else "pyfunc"

    def save_model(
        self,
        path: str,
        mlflow_model: Any,
        *,
        weights_dir: Path,
        code_path: Path,
        model_config: dict[str, Any],
        pip_requirements: list[str],
    ) -> None:
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

        if self.kind == "lora":
            mlflow_model.add_flavor(
                "diffusers",
                base_model=model_config["base_model"],
                adapter_type="lora",
                adapter_weights=f"artifacts/{weights_dir.name}",
                code=None,
            )
        params = ParamSchema(
            [
                ParamSpec("num_inference_steps", DataType.integer, model_config["num_inference_steps"]),
                ParamSpec("guidance_scale", DataType.double, model_config["guidance_scale"]),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("negative_prompt", DataType.string, ""),
            ]
        )
        inputs, outputs = Schema([ColSpec(DataType.string, "prompt")]), Schema([ColSpec(DataType.binary, "image")])
        with warnings.catch_warnings():
            # With an input example MLflow would load the model to try it, and torch with it.
            warnings.simplefilter("ignore", UserWarning)
            pyfunc.save_model(
                path=path,
                python_model=str(code_path),
                artifacts={"weights": str(weights_dir)},
                mlflow_model=mlflow_model,
                model_config=model_config,
                signature=ModelSignature(inputs=inputs, outputs=outputs, params=params),
                pip_requirements=pip_requirements,
            )
        # Nothing is added to the folder between here and its upload.
        self.tags = dict(self.seal(Path(path)))


Seal = Callable[[Path], Mapping[str, str]]
"""Reads the complete folder that MLflow will serve, before it is uploaded, and returns the tags that describe it."""


def register_weights(
    settings: Settings,
    *,
    model: str,
    kind: Literal["lora", "full"],
    weights_dir: Path,
    code_path: Path,
    model_config: dict[str, Any],
    pip_requirements: Sequence[str],
    run_id: str,
    tags: Mapping[str, str],
    seal: Seal,
) -> int:
    """Log weights with the models-from-code file that serves them, and create a version that has its tags from the
    start, including those of `seal`.

    Return the version's number. A crash in between leaves at most a logged model without a version.
    """
    with connect(settings.tracking_uri) as client:
        import mlflow
        from mlflow.models import Model

        mlflow.set_tracking_uri(settings.tracking_uri)
        mlflow.set_registry_uri(settings.tracking_uri)
        flavor = _ServedFlavor(kind, seal)
        run = client.get_run(run_id)
        # Made here, since `Model.log` makes it in the default experiment, where our user may only read.
        logged = client.create_logged_model(
            run.info.experiment_id, name="model", source_run_id=run_id, tags=dict(tags), params=run.data.params
        )
        info = Model.log(
            artifact_path=None,
            flavor=flavor,
            name="model",
            run_id=run_id,
            model_id=logged.model_id,
            weights_dir=weights_dir,
            code_path=code_path,
            model_config=model_config,
            pip_requirements=list(pip_requirements),
        )
        made = mlflow.register_model(f"models:/{info.model_id}", model, tags={**tags, **flavor.tags})
    return int(made.version)


def fetch_served(settings: Settings, model: str, version: int, local_dir: Path) -> Path:
    """Download the complete folder that a version serves: weights in artifacts/weights, code, MLmodel, requirements.

    ValueError when its files were deleted.
    """
    from mlflow.artifacts import download_artifacts

    missing = missing_files(settings, model, version)
    if missing:
        raise ValueError(missing)
    with connect(settings.tracking_uri) as client:
        uri = _served_weights(client, model, version).removesuffix(f"/{SERVED_WEIGHTS}")
        return Path(download_artifacts(uri, dst_path=str(local_dir), tracking_uri=settings.tracking_uri))


def served_sizes(settings: Settings, model: str, version: int) -> dict[str, int]:
    """Return the size of each file that a version serves, by path. ValueError when its files were deleted."""
    from mlflow.artifacts import list_artifacts

    missing = missing_files(settings, model, version)
    if missing:
        raise ValueError(missing)
    with connect(settings.tracking_uri) as client:
        root = _served_weights(client, model, version).removesuffix(f"/{SERVED_WEIGHTS}")
        sizes, folders = dict[str, int](), [""]
        while folders:
            folder = folders.pop()
            # Paths are relative to the folder that is listed, by its own name or from its root, as the store likes.
            for found in list_artifacts(f"{root}/{folder}".rstrip("/"), tracking_uri=settings.tracking_uri):
                path = f"{folder}/{found.path.rsplit('/', 1)[-1]}".lstrip("/")
                if found.is_dir:
                    folders.append(path)
                else:
                    sizes[path] = found.file_size or 0
        return sizes


def find_version(settings: Settings, model: str, *, weights_digest: str) -> int | None:
    """Return the newest version with these weights."""
    with connect(settings.tracking_uri) as client:
        wanted = f"name = '{model}' and tags.`{WEIGHTS_TAG}` = '{weights_digest}'"
        return max((int(found.version) for found in client.search_model_versions(wanted)), default=None)


def version_tags(settings: Settings, model: str, version: int) -> dict[str, str] | None:
    """Return the tags of a version; None when there is no such version, or it was deleted."""
    from mlflow.exceptions import MlflowException

    with connect(settings.tracking_uri) as client:
        try:
            return dict(client.get_model_version(model, str(version)).tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def tagged_versions(settings: Settings, model: str, tag: str) -> dict[int, str]:
    """Return versions that have a tag, with its value; empty when there is no such model."""
    with connect(settings.tracking_uri) as client:
        found: dict[int, str] = {}
        token = None
        while True:
            page = client.search_model_versions(f"name = '{model}' and tags.`{tag}` LIKE '%'", page_token=token)
            found |= {int(version.version): version.tags[tag] for version in page}
            token = page.token
            if not token:
                return found


def registered_at(settings: Settings, model: str, version: int) -> datetime:
    """Return the time at which a version was registered."""
    with connect(settings.tracking_uri) as client:
        milliseconds = client.get_model_version(model, str(version)).creation_timestamp
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def list_versions(settings: Settings, model: str) -> list[int]:
    """Return every version of a model that is not deleted, oldest first; empty when there is no such model."""
    with connect(settings.tracking_uri) as client:
        pages: list[int] = []
        token = None
        while True:
            page = client.search_model_versions(f"name = '{model}'", page_token=token)
            pages += [int(found.version) for found in page]
            token = page.token
            if not token:
                return sorted(pages)


def aliases(settings: Settings, model: str) -> dict[str, int]:
    """Return every alias of a model with the version that it names; empty when there is no such model."""
    from mlflow.exceptions import MlflowException

    with connect(settings.tracking_uri) as client:
        try:
            return {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def delete_version(settings: Settings, model: str, version: int) -> None:
    """Delete a version with its aliases, as MLflow does. Only release/registration/pruning.py may call this; it checks
    first.
    """
    with connect(settings.tracking_uri) as client:
        client.delete_model_version(model, str(version))


def set_version_tags(settings: Settings, model: str, version: int, tags: Mapping[str, str]) -> None:
    """Set or replace tags of a version."""
    with connect(settings.tracking_uri) as client:
        for name, value in tags.items():
            client.set_model_version_tag(model, str(version), name, value)


def describe_version(settings: Settings, model: str, version: int, text: str) -> None:
    """Set a version's description, Markdown."""
    with connect(settings.tracking_uri) as client:
        client.update_model_version(model, str(version), description=text)


def version_of_run(settings: Settings, model: str, run_id: str) -> int | None:
    """Return the newest version whose weights a run made; None when there is none. ValueError for an unknown run."""
    from mlflow.exceptions import MlflowException

    with connect(settings.tracking_uri) as client:
        try:
            output = client.get_run(run_id).data.tags.get(OUTPUT_TAG)
        except MlflowException as error:
            raise ValueError(f"MLflow has no run {run_id}. Copy the id from the run's page.") from error
        known = client.search_model_versions(f"name = '{model}'")
        return max(
            (int(own.version) for own in known if output and own.tags.get("weights.uri") == output), default=None
        )


def get_alias(settings: Settings, model: str, alias: str) -> int | None:
    """Return the version that an alias names, None when it is not set; ValueError when that version was deleted."""
    from mlflow.exceptions import MlflowException

    with connect(settings.tracking_uri) as client:
        try:
            named = client.get_registered_model(model).aliases.get(alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    if named is not None and version_tags(settings, model, int(named)) is None:
        raise ValueError(
            f"Alias {alias!r} of model {model!r} names version {named}, which was deleted. Nothing was moved. Delete"
            " the alias in MLflow; if it was the champion, `plumbline rollback` then restores the one before it."
        )
    return int(named) if named is not None else None


def set_alias(settings: Settings, model: str, alias: str, version: int) -> None:
    """Point an alias at a version. Only release/promotion moves `champion` and `previous_champion`.

    MLflow looks for the alias and then inserts it, so of two writers that create it at once its database refuses one.
    That writer finds it at its second try.
    """
    with connect(settings.tracking_uri) as client:
        from mlflow.exceptions import MlflowException

        try:
            client.set_registered_model_alias(model, alias, str(version))
        except MlflowException as error:
            if not _ALIAS_EXISTS.search(str(error)):
                raise
            client.set_registered_model_alias(model, alias, str(version))


def delete_alias(settings: Settings, model: str, alias: str) -> None:
    """Remove an alias; do nothing when it is not set."""
    with connect(settings.tracking_uri) as client:
        client.delete_registered_model_alias(model, alias)


def missing_files(settings: Settings, model: str, version: int, *, soon: bool = False) -> str:
    """Return the reason why MLflow lacks the files that a version serves; empty when it has them. With `soon`, also
    when the next `mlflow gc` will delete them.
    """
    from mlflow.artifacts import list_artifacts

    with connect(settings.tracking_uri) as client:
        uri = _served_weights(client, model, version)
        if not uri or not list_artifacts(uri, tracking_uri=settings.tracking_uri):
            return (
                f"MLflow has no files for version {version} of model {model!r}: its logged model was deleted,"
                " or its artifacts were."
            )
        source = client.get_model_version(model, str(version)).source
        if soon and source.startswith(LOGGED_MODEL) and _logged_model(client, source) is None:
            return (
                f"The logged model of version {version} of model {model!r} is deleted: the next `mlflow gc` deletes its"
                " files."
            )
    return ""


def _served_weights(client: Any, model: str, version: int) -> str:
    """Return the location of the weights that a version serves; empty when only its deleted logged model names it."""
    source = client.get_model_version_download_uri(model, str(version))
    if source.startswith(LOGGED_MODEL):
        # A models:/ address is resolved at the process's own tracking server, not the client's.
        logged = _logged_model(client, source)
        if logged is None:
            return ""
        source = logged.artifact_location
    return f"{source}/artifacts/weights"


def _logged_model(client: Any, source: str) -> Any:
    """Return the logged model at a models:/ address; None when it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(source.removeprefix("models:/"))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
