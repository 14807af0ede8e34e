"""Runs on a real server: found before created, logged once, streamed, and a clear message when the server is gone."""

import json
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alignment.contracts.data import DatasetSnapshot
from pipelines.settings import Settings, load_settings
from pipelines.tracking import run_stream, runs
from pipelines.tracking.errors import TrackingUnavailable

KEY = "manual__2026-01-01T00:00:00+00:00"
CONFIG = {
    "recipe": {"name": "dpo", "optimiser": {"learning_rate": 1e-5}, "prompts": ["x" * 900]},
    "seed": 7,
    "placement": {"engine": "local"},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def project() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


def run_of(settings: Settings, run_id: str) -> Any:
    with runs.connect(settings.tracking_uri) as client:
        return client.get_run(run_id)


def job_of(settings: Settings, project: str, **changes: Any) -> runs.TrackingTarget:
    request = {"request_job_id": "p-train-0123-g0", "kind": "train", "parent_key": KEY, "config": CONFIG, **changes}
    return runs.job_run(settings, project=project, **request)


def open_parent(settings: Settings, project: str, **tags: str) -> str:
    return runs.parent_run(settings, project=project, key=KEY, tags=tags)


def test_a_parent_run_is_found_by_its_key_and_takes_new_tags(tracked: Settings, project: str) -> None:
    first = open_parent(tracked, project, **{"airflow.try_number": "1"})
    assert open_parent(tracked, project, **{"airflow.try_number": "2"}) == first
    run = run_of(tracked, first)
    assert run.data.tags["airflow.try_number"] == "2"
    assert run.data.tags["plumbline.run_key"] == KEY
    assert run.info.run_name == runs._run_name(KEY)
    assert runs.parent_run(tracked, project=project, key="another", tags={}) != first


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("shapes.train/asset_triggered__2026-11-24T00:36:00.998283+00:00_4n1req86", "shapes.train 2026-11-24 00:36"),
        ("shapes.ingest/manual__2026-01-02T03:04:05+00:00", "shapes.ingest 2026-01-02 03:04"),
        ("by-hand", "by-hand"),
    ],
)
def test_a_run_is_named_for_people(key: str, name: str) -> None:
    assert runs._run_name(key) == name


def test_of_two_runs_created_at_once_both_callers_use_the_earlier(tracked: Settings, project: str) -> None:
    first = open_parent(tracked, project)
    experiment = run_of(tracked, first).info.experiment_id
    with runs.connect(tracked.tracking_uri) as client:
        late = client.create_run(experiment, tags={"plumbline.run_key": KEY}).info.run_id
    assert open_parent(tracked, project) == first != late


def test_pictures_are_artifacts_and_the_runs_description(tracked: Settings, project: str) -> None:
    target = job_of(tracked, project, tags={"airflow.ui_url": "http://airflow/run"})
    stream = run_stream.RunStream(tracked.tracking_uri, target.run_id)
    names = ("samples/step_00000100.png", "samples/by_step_00000100.png")
    stream.show_pictures({name: Image.new("RGB", (4, 4)) for name in names}, "Samples of step 100")
    with runs.connect(tracked.tracking_uri) as client:
        assert {item.path for item in client.list_artifacts(target.run_id, "samples")} == set(names)
    note = run_of(tracked, target.run_id).data.tags[runs.NOTE_TAG]
    assert note.startswith("![samples/step_00000100.png](get-artifact?path=samples%2Fstep_00000100.png&run_uuid=")
    assert f"](get-artifact?path=samples%2Fby_step_00000100.png&run_uuid={target.run_id})" in note
    assert note.endswith("[Run in Airflow](http://airflow/run)")


def test_runs_are_named_for_people_and_by_the_version_that_they_made(tracked: Settings, project: str) -> None:
    tags = {runs.OUTPUT_TAG: "file:///store/models/a"}
    target = job_of(tracked, project, name="dpo, beta 5000", tags=tags)
    other = job_of(tracked, project, name="sft", request_job_id="p-train-9-g0", tags={runs.OUTPUT_TAG: "file:///other"})
    for version in (12, 12):
        runs.name_by_version(tracked, project, output_uri=tags[runs.OUTPUT_TAG], version=version)
    assert run_of(tracked, target.run_id).info.run_name == "dpo, beta 5000, v12"
    assert run_of(tracked, other.run_id).info.run_name == "sft"
    job_of(tracked, project, name="dpo, beta 5000", tags=tags)
    assert run_of(tracked, target.run_id).info.run_name == "dpo, beta 5000, v12", "a retry keeps it"


def test_the_experiment_opens_on_training_runs(tracked: Settings, project: str) -> None:
    with runs.connect(tracked.tracking_uri) as client:
        client.create_experiment(f"{project}old")
        for name in (project, f"{project}old"):
            open_parent(tracked, name)
            assert client.get_experiment_by_name(name).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_job_run_is_nested_found_again_and_keeps_its_first_config(tracked: Settings, project: str) -> None:
    parent = open_parent(tracked, project)
    target = job_of(tracked, project)
    assert job_of(tracked, project, config={"seed": 8}) == target
    run = run_of(tracked, target.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params["seed"] == "7"
    assert run.data.params["optimiser.learning_rate"] == "1e-05"
    assert len(run.data.params["prompts"]) == 500
    assert not [name for name in run.data.params if name.startswith("placement.") or name.endswith("schema_version")]
    with runs.connect(tracked.tracking_uri) as client:
        assert json.loads(Path(client.download_artifacts(target.run_id, "config.json")).read_text()) == CONFIG


def test_a_failed_run_runs_again_on_retry_and_a_finished_one_stays_finished(tracked: Settings, project: str) -> None:
    target = job_of(tracked, project)
    runs.finish_run(tracked, target.run_id, "FAILED")
    job_of(tracked, project)
    assert run_of(tracked, target.run_id).info.status == "RUNNING"
    runs.finish_run(tracked, target.run_id, "FINISHED")
    job_of(tracked, project)
    assert run_of(tracked, target.run_id).info.status == "FINISHED"


def test_tags_of_the_parent_are_inherited_and_those_of_mlflow_left_out(tracked: Settings, project: str) -> None:
    open_parent(tracked, project, **{"airflow.run_id": "r1"})
    tags = runs.run_tags(tracked, job_of(tracked, project).run_id)
    assert tags["airflow.run_id"] == "r1"
    assert tags["plumbline.kind"] == "train"
    assert not [name for name in tags if name.startswith("mlflow.")]


def test_points_arrive_once_however_often_they_are_sent(tracked: Settings, project: str) -> None:
    target = job_of(tracked, project)
    for _ in range(2):
        stream = run_stream.RunStream(tracked.tracking_uri, target.run_id)
        for step in range(30):
            stream.log_metrics(step, 1_700_000_000 + step, {"loss": 1 / (step + 1)})
        stream.flush()
    with runs.connect(tracked.tracking_uri) as client:
        history = client.get_metric_history(target.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(30)]


def test_an_image_of_a_key_and_step_is_stored_once_even_after_a_restart(
    tracked: Settings, project: str, tmp_path: Path
) -> None:
    target = job_of(tracked, project)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "sample.png")
    for _ in range(2):
        stream = run_stream.RunStream(tracked.tracking_uri, target.run_id)
        for key, step in (("samples/00", 0), ("samples/00", 50), ("samples/01", 0), ("samples/00", 0)):
            stream.log_image(tmp_path / "sample.png", key, step)
    with runs.connect(tracked.tracking_uri) as client:
        names = [item.path for item in client.list_artifacts(target.run_id, "images")]
    assert sorted(name.partition("+timestamp")[0] for name in names if name.endswith(".png")) == [
        "images/samples~00+step+0",
        "images/samples~00+step+50",
        "images/samples~01+step+0",
    ]
    assert run_of(tracked, target.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_a_file_that_is_not_an_image_is_refused_by_name(tracked: Settings, project: str, tmp_path: Path) -> None:
    (tmp_path / "sample.png").write_text("no image")
    stream = run_stream.RunStream(tracked.tracking_uri, job_of(tracked, project).run_id)
    with pytest.raises(ValueError, match=r"sample\.png is not an image"):
        stream.log_image(tmp_path / "sample.png", "samples/00", 1)


def test_a_parameter_is_added_once_and_never_changed(tracked: Settings, project: str) -> None:
    target = job_of(tracked, project)
    stream = run_stream.RunStream(tracked.tracking_uri, target.run_id)
    for size in ("4", "2"):
        stream.log_params({"placement.micro_batch": size})
    assert run_of(tracked, target.run_id).data.params["placement.micro_batch"] == "4"


def test_the_last_steps_of_curves_are_those_of_the_server(tracked: Settings, project: str) -> None:
    stream = run_stream.RunStream(tracked.tracking_uri, job_of(tracked, project).run_id)
    for step in (3, 4):
        stream.log_metrics(step, 100.0 - step, {"loss": 1.0})
    stream.flush()
    assert stream.last_steps(["loss", "never_sent"]) == {"loss": 4}


def test_artifacts_text_and_the_dataset_are_in_the_run(
    tracked: Settings, project: str, tmp_path: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    snapshot = make_snapshot(uri="file:///store/snapshots/0")
    run_id = open_parent(tracked, project)
    (tmp_path / "sheet.png").write_bytes(b"png")
    runs.log_artifacts(tracked, run_id, tmp_path / "sheet.png", "evaluation")
    runs.log_text(tracked, run_id, "<p>held</p>", "evaluation/report.html")
    runs.log_dataset(tracked, run_id, snapshot, "training")
    with runs.connect(tracked.tracking_uri) as client:
        assert {item.path for item in client.list_artifacts(run_id, "evaluation")} == {
            "evaluation/sheet.png",
            "evaluation/report.html",
        }
    (entry,) = run_of(tracked, run_id).inputs.dataset_inputs
    assert entry.dataset.digest == snapshot.content_digest[:36]
    assert json.loads(entry.dataset.profile)["content_digest"] == snapshot.content_digest
    assert json.loads(entry.dataset.source)["uri"] == snapshot.uri
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}


def test_a_deleted_experiment_is_explained(tracked: Settings, project: str) -> None:
    experiment = run_of(tracked, open_parent(tracked, project)).info.experiment_id
    with runs.connect(tracked.tracking_uri) as client:
        client.delete_experiment(experiment)
    with pytest.raises(ValueError, match=f"mlflow experiments restore -x {experiment}"):
        open_parent(tracked, project)


def test_a_key_with_a_quote_is_refused(tracked: Settings, project: str) -> None:
    with pytest.raises(ValueError, match="contains a quote"):
        runs.parent_run(tracked, project=project, key="o'clock", tags={})


def test_a_server_that_is_gone_is_named_and_points_are_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    gone = settings.model_copy(update={"tracking_uri": "http://somebody:secret@127.0.0.1:9"})
    with pytest.raises(
        TrackingUnavailable, match=r"http://127\.0\.0\.1:9 does not respond \(Connection refused\)"
    ) as raised:
        runs.parent_run(gone, project="shapes", key=KEY, tags={})
    assert "secret" not in str(raised.value)
    stream = run_stream.RunStream(gone.tracking_uri, "0" * 32)
    stream.log_metrics(0, 0.0, {"loss": 1.0})
    stream.log_metrics(1, 1.0, {"loss": 0.5})
    assert caplog.text.count("Keeping 1 points") == 1
    with pytest.raises(TrackingUnavailable):
        stream.flush()
    assert [point.value for point in stream._points] == [1.0, 0.5]


def test_a_server_that_refuses_the_host_name_is_explained(tracked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: resolve("127.0.0.1", *rest, **named))
    port = tracked.tracking_uri.rpartition(":")[2]
    named = tracked.model_copy(update={"tracking_uri": f"http://mlflow.example:{port}"})
    with pytest.raises(ValueError, match=f"--allowed-hosts mlflow.example:{port}"):
        runs.check_reachable(named)


def test_waiting_for_a_server_that_is_gone_ends_within_a_minute(settings: Settings) -> None:
    gone = settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable):
        runs.check_reachable(gone)
    assert 5 < time.monotonic() - started < 60


def test_without_a_server_artifacts_stay_under_the_state_folder(tmp_path: Path) -> None:
    local = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    run_id = open_parent(local, "shapes")
    runs.log_text(local, run_id, "hello", "note.txt")
    assert [path.read_text() for path in (tmp_path / "mlflow" / "artifacts").rglob("note.txt")] == ["hello"]
