"""Records of a version are found by digest, and left out where they are missing or damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.config import load_recipe
from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.jobs import Placement
from alignment.contracts.reference_errors import ReferenceErrors
from alignment.contracts.training import TrainResult, TrainSpec
from pipelines.contracts.jobs import JobInput, JobKind, JobRecord, JobRequest
from pipelines.contracts.release import CandidateVersion
from pipelines.project.file import Project
from pipelines.records.jobs import save_record
from pipelines.release.pages.provenance import Provenance, read_provenance
from pipelines.settings import Settings
from pipelines.store.storage import Store, open_store
from pipelines.workspace import Workspace


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store_uri, settings)


def publish(store: Store, scratch: Path, *parts: str, files: dict[str, str], value: dict[str, Any]) -> str:
    folder = scratch.joinpath("made", *parts)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    uri = store.uri(*parts)
    store.publish_folder(folder, uri, {**value, "uri": uri})
    return uri


def save(store: Store, kind: JobKind, spec: dict[str, Any], *, digest: str, inputs: tuple[JobInput, ...] = ()) -> None:
    request = JobRequest(
        project="tiny",
        kind=kind,
        spec=spec,
        spec_digest=digest,
        inputs=inputs,
        output_uri=store.uri("out", digest),
        placement=Placement(),
    )
    save_record(store, JobRecord(request=request, device="cpu", attempts=1, seconds=3.0))


@pytest.fixture
def candidate(store: Store, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]) -> CandidateVersion:
    """A version whose snapshot, features and training are all in the store."""
    num_pairs = {"train": 3, "calibration": 2, "test": 1}
    snapshot = make_snapshot(uri="", num_pairs=num_pairs, sources=("tiny_pairs",), batch_digests=("b" * 64,))
    where = publish(
        store, tmp_path, "snapshots", "1", files={"train.parquet": "x"}, value=snapshot.model_dump(mode="json")
    )
    cache = FeatureCache(
        uri="", content_digest="d" * 64, spec_digest="e" * 64, num_pairs=3, num_captions=3, latent_shape=(4, 8, 8)
    )
    features = publish(
        store, tmp_path, "features", "1", files={"index.json": "{}"}, value=cache.model_dump(mode="json")
    )
    spec = TrainSpec(recipe=load_recipe("diffusion_dpo_shapes"), base_digest="f" * 64, cache_digest="d" * 64)
    result = TrainResult(
        uri="",
        spec_digest=spec.digest,
        kind="full",
        weights_digest="1" * 64,
        base_digest="f" * 64,
        steps=2,
        num_pairs=3,
        final_metrics={},
    )
    lines = [json.dumps({"step": n, "unix_seconds": 1.0, "metrics": {"loss": 1.0 / n}}) for n in (1, 2)]
    files = {"weights/unet/w.safetensors": "w", "metrics.jsonl": "\n".join(lines) + "\n"}
    weights = publish(store, tmp_path, "models", "1", files=files, value=result.model_dump(mode="json"))
    data = JobInput(content_digest="d" * 64, uri=features)
    save(store, "train", spec.model_dump(mode="json"), digest=spec.digest, inputs=(data,))
    save(store, "encode", {}, digest="e" * 64)
    save(store, "evaluate", {}, digest="9" * 64)
    return CandidateVersion(
        model="tiny",
        version=1,
        kind="full",
        weights_digest="1" * 64,
        weights_uri=weights,
        spec_digest=spec.digest,
        base_digest="f" * 64,
        snapshot_digest="a" * 64,
        snapshot_uri=where,
        trained_on=("tiny_pairs",),
        run_id="run",
    )


def test_every_stage_is_found(candidate: CandidateVersion, tiny_project: Project, settings: Settings) -> None:
    known = read_provenance(
        candidate, Workspace(tiny_project, settings), evaluations=[("evaluate", "9" * 64), ("coverage", "8" * 64)]
    )
    assert known.snapshot is not None
    assert known.snapshot.batch_digests == ("b" * 64,)
    assert known.cache is not None
    assert known.cache.content_digest == "d" * 64
    assert known.result is not None
    assert known.result.steps == 2
    assert [recipe.name for recipe in known.recipes] == ["diffusion_dpo_shapes"]
    assert [line.metrics["loss"] for line in known.metrics] == [1.0, 0.5]
    assert [record.request.kind for record in known.records] == ["encode", "train", "evaluate"]
    assert [source.name for source in known.sources] == ["tiny_pairs"]


def test_the_errors_of_the_base_that_a_run_found_are_among_its_jobs(
    candidate: CandidateVersion, tiny_project: Project, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(tiny_project, settings)
    (record,) = read_provenance(candidate, workspace).records[1:]
    errors = ReferenceErrors(uri="", content_digest="2" * 64, spec_digest="3" * 64, key="4" * 64, num_visits=9)
    value = errors.model_dump(mode="json")
    where = publish(workspace.store, tmp_path, "reference_errors", "1", files={"spec.json": "{}"}, value=value)
    inputs = (*record.request.inputs, JobInput(content_digest="2" * 64, uri=where, alias="4" * 64))
    save(workspace.store, "train", record.request.spec, digest=record.request.spec_digest, inputs=inputs)
    save(workspace.store, "reference_errors", {}, digest="3" * 64)
    kinds = [record.request.kind for record in read_provenance(candidate, workspace).records]
    assert kinds == ["encode", "reference_errors", "train"]


def test_an_empty_store_gives_no_more_than_the_project_knows(
    candidate: CandidateVersion, tiny_project: Project, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = settings.model_copy(update={"store_uri": (tmp_path / "empty").as_uri()})
    lost = candidate.model_copy(
        update={"snapshot_uri": f"{elsewhere.store_uri}/snapshots/1", "weights_uri": f"{elsewhere.store_uri}/models/1"}
    )
    assert read_provenance(lost, Workspace(tiny_project, elsewhere)) == Provenance(sources=tiny_project.sources)


def test_a_broken_manifest_is_left_out_with_a_warning(
    candidate: CandidateVersion,
    tiny_project: Project,
    settings: Settings,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.write_bytes(f"{candidate.snapshot_uri}/manifest.json", b"{")
    known = read_provenance(candidate, Workspace(tiny_project, settings))
    assert known.snapshot is None
    assert known.result is not None
    assert candidate.snapshot_uri in caplog.text
