"""The worker around a job that follows the job protocol, with a real store on disk and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.jobs import DevicePrices, Placement
from pipelines.contracts.jobs import JobInput, JobRequest, SideOutput
from pipelines.dispatch import jobs
from pipelines.dispatch.job_folder import JobFolder, Launch
from pipelines.host import kill_marked
from pipelines.records.compute import total_compute
from pipelines.records.jobs import find_record
from pipelines.settings import Settings, load_settings
from pipelines.store.folders import hash_folder, sha256_file
from pipelines.store.storage import open_store
from pipelines.tracking import runs

pytestmark = pytest.mark.timeout(60)

JOB = Path(__file__).with_name("speaking_job.py")
SAMPLES = "e" * 64
RUN = f"""
import sys
from pathlib import Path
from pipelines.dispatch.worker import main

def command(folder, kind, placement):
    work = folder.work_dir
    paths = {{"spec": work / "spec.json", "placement": work / "placement.json"}}
    paths |= {{"inputs": folder.inputs_dir, "out": folder.out_dir}}
    return [sys.executable, {str(JOB)!r}, *(text for name, path in paths.items() for text in ("--" + name, str(path)))]

sys.exit(main(Path(sys.argv[1]), command))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    state = {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    return load_settings(state)


def make_request(settings: Settings, spec: dict[str, Any], **fields: Any) -> JobRequest:
    fields = {"kind": "train", "inputs": (), "side_outputs": (), "spec_digest": "a" * 64, **fields}
    return JobRequest(
        project="words",
        spec=spec,
        output_uri=open_store(settings.store_uri).uri("models", fields["spec_digest"]),
        placement=Placement(threads_per_process=3),
        **fields,
    )


def start_worker(settings: Settings, request: JobRequest, **environ: str) -> tuple[JobFolder, subprocess.Popen[str]]:
    folder = JobFolder(settings.state_dir / "jobs" / request.job_id)
    folder.write_request(request)
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
        "PLUMBLINE_STORE_URI": settings.store_uri,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        **environ,
    }
    command = [sys.executable, "-c", RUN, str(folder.path)]
    return folder, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def run_worker(settings: Settings, request: JobRequest, **environ: str) -> tuple[JobFolder, int, str]:
    folder, process = start_worker(settings, request, **environ)
    text, _ = process.communicate(timeout=50)
    return folder, process.returncode, text


def test_the_output_is_published_with_its_uri_and_without_checkpoints(settings: Settings) -> None:
    store = open_store(settings.store_uri)
    side = SideOutput(path=f"samples/{SAMPLES}", uri=store.uri("evaluations", "samples", SAMPLES))
    request = make_request(settings, {"count": 2}, side_outputs=(side,))
    folder, code, text = run_worker(settings, request)
    assert code == 0, text
    manifest = store.read_manifest(request.output_uri)
    assert manifest is not None
    expected = {"environment.json", "inputs.json", "metrics.jsonl", "samples/2.png", "samples/index.jsonl"}
    assert set(manifest.files) == {*expected, "weights/weights.safetensors"}
    assert manifest.value == {"uri": request.output_uri, "content_digest": manifest.content_digest, "steps": 2}
    samples = store.read_manifest(side.uri)
    assert samples is not None
    assert set(samples.files) == {"00000_0.png"}
    assert not (folder.out_dir / "checkpoints").exists()
    assert (folder.out_dir / "result.json").exists()
    record = find_record(store, request.project, "train", request.spec_digest)
    assert record is not None
    assert (record.request, record.attempts) == (request, 1)
    assert record.seconds > 0


def test_a_rank_above_0_runs_with_its_place_and_publishes_nothing(settings: Settings) -> None:
    request = make_request(settings, {"count": 2})
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}
    folder, code, text = run_worker(settings, request, **place)
    assert code == 0, text
    environ = json.loads((folder.out_dir / "environment.json").read_text())
    assert {name: environ.get(name) for name in place} == place
    store = open_store(settings.store_uri)
    assert store.read_manifest(request.output_uri) is None
    assert find_record(store, request.project, "train", request.spec_digest) is None


def test_an_evaluation_publishes_none_of_its_images_with_its_result(settings: Settings) -> None:
    request = make_request(settings, {"count": 2}, kind="evaluate")
    _folder, code, text = run_worker(settings, request)
    assert code == 0, text
    manifest = open_store(settings.store_uri).read_manifest(request.output_uri)
    assert manifest is not None
    assert set(manifest.files) == {"environment.json", "inputs.json", "metrics.jsonl", "weights/weights.safetensors"}


def test_every_kind_of_input_is_found_under_its_name(settings: Settings, tmp_path: Path) -> None:
    store = open_store(settings.store_uri)
    for name in ("model/weights/w.safetensors", "model/metrics.jsonl", "cache/shard", "base/unet", "prompts.tsv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    store.publish_folder(tmp_path / "model", store.uri("models", "m"), {})
    cache = store.publish_folder(tmp_path / "cache", store.uri("features", "c"), {})
    weights, _ = hash_folder(tmp_path / "model" / "weights")
    base, _ = hash_folder(tmp_path / "base")
    prompts = sha256_file(tmp_path / "prompts.tsv")
    inputs = (
        JobInput(content_digest=weights, uri=store.uri("models", "m"), subfolder="weights"),
        JobInput(content_digest=cache.content_digest, uri=store.uri("features", "c"), alias=SAMPLES),
        JobInput(content_digest=base, uri=str(tmp_path / "base"), manifest=False),
        JobInput(content_digest=prompts, uri=str(tmp_path / "prompts.tsv"), kind="file"),
    )
    folder, code, text = run_worker(settings, make_request(settings, {"count": 1}, inputs=inputs))
    assert code == 0, text
    seen = json.loads((folder.out_dir / "inputs.json").read_text())
    assert seen.pop(SAMPLES) == ["manifest.json", "shard"]
    assert seen == {weights: ["w.safetensors"], base: ["unet"], prompts: []}
    assert (folder.inputs_dir / prompts).read_text() == "prompts.tsv"


def test_a_changed_input_stops_the_job_before_it_starts(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "unet").write_text("other weights")
    base = JobInput(content_digest="b" * 64, uri=str(tmp_path / "base"), manifest=False)
    folder, code, _ = run_worker(settings, make_request(settings, {"count": 1}, inputs=(base,)))
    failure = folder.read_failure()
    assert code == 2
    assert failure is not None
    assert failure.kind == "bad_data"
    assert "it changed since" in failure.message
    assert not folder.out_dir.exists()


@pytest.mark.parametrize(("kind", "code"), [("bad_input", 2), ("bad_data", 2), ("storage_full", 1), ("preempted", 143)])
def test_the_reason_that_the_job_states_is_passed_on(settings: Settings, kind: str, code: int) -> None:
    folder, found, _ = run_worker(settings, make_request(settings, {"fail": kind}))
    failure = folder.read_failure()
    assert found == code
    assert failure is not None
    assert (failure.kind, failure.message, failure.step) == (kind, f"it is {kind}", 3)


def test_a_diverged_run_names_the_last_good_checkpoint(settings: Settings) -> None:
    request = make_request(settings, {"fail": "diverged"})
    folder, code, _ = run_worker(settings, request)
    failure = folder.read_failure()
    assert code == 1
    assert failure is not None
    assert failure.message == "it is diverged It diverged before the first checkpoint."
    for name in ("step_000005", "step_000010", "step_000015"):
        (folder.out_dir / "checkpoints" / name).mkdir(parents=True)
        if name != "step_000015":  # The manifest is written last.
            (folder.out_dir / "checkpoints" / name / "manifest.json").write_text("{}")
    folder, _, _ = run_worker(settings, request)
    failure = folder.read_failure()
    assert failure is not None
    assert failure.message.endswith(f"The last good checkpoint is {folder.out_dir}/checkpoints/step_000010.")


def test_a_job_that_leaves_no_reason_has_crashed(settings: Settings) -> None:
    folder, code, _ = run_worker(settings, make_request(settings, {"exit": 9}))
    failure = folder.read_failure()
    assert code == 1
    assert failure is not None
    assert failure.kind == "crashed"
    assert "exit code 9" in failure.message


def test_exit_code_0_without_a_result_is_a_crash(settings: Settings) -> None:
    folder, code, _ = run_worker(settings, make_request(settings, {"exit": 0}))
    failure = folder.read_failure()
    assert code == 1
    assert failure is not None
    assert failure.kind == "crashed"


def test_sigterm_reaches_the_training_and_the_next_attempt_resumes(settings: Settings) -> None:
    request = make_request(settings, {"count": 60})
    folder, process = start_worker(settings, request)
    metrics = folder.out_dir / "metrics.jsonl"
    deadline = time.monotonic() + 20
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 143, text
    failure = folder.read_failure()
    assert failure is not None
    assert (failure.kind, failure.message) == ("preempted", "stopped")
    step = int((folder.out_dir / "checkpoints" / "step").read_text())
    assert 3 <= step < 60
    folder, code, text = run_worker(settings, request)
    assert code == 0, text
    assert f"from step {step}" in text
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 61))


def test_a_result_that_could_not_be_published_is_not_computed_again(settings: Settings, tmp_path: Path) -> None:
    request = make_request(settings, {"count": 1})
    (tmp_path / "store").write_text("a file where the store should be")
    folder, code, text = run_worker(settings, request)
    assert code == 2, text
    (tmp_path / "store").unlink()
    metrics = (folder.out_dir / "metrics.jsonl").read_text()
    folder, code, text = run_worker(settings, request)
    assert code == 0, text
    assert "only publishing is left" in text
    assert (folder.out_dir / "metrics.jsonl").read_text() == metrics
    assert open_store(settings.store_uri).read_manifest(request.output_uri) is not None


def test_a_result_in_the_store_ends_the_job_at_once(settings: Settings, tmp_path: Path) -> None:
    request = make_request(settings, {"exit": 1})
    (tmp_path / "answer").mkdir()
    (tmp_path / "answer" / "weights").write_text("w")
    open_store(settings.store_uri).publish_folder(tmp_path / "answer", request.output_uri, {})
    folder, code, text = run_worker(settings, request)
    assert code == 0, text
    assert not folder.out_dir.exists()


def test_the_job_sees_no_secret_and_the_threads_of_its_placement(settings: Settings) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "s3cret-a", "MLFLOW_TRACKING_PASSWORD": "s3cret-m", "HF_TOKEN": "s3cret-h"}
    folder, code, text = run_worker(settings, make_request(settings, {"count": 1}), **secrets)
    assert code == 0, text
    environment = json.loads((folder.out_dir / "environment.json").read_text())
    assert not [value for value in environment.values() if "s3cret" in value]
    assert "s3cret" not in text
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


@pytest.mark.slow
def test_a_silent_tracking_server_does_not_stop_the_job(settings: Settings) -> None:
    settings = settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    request = make_request(settings, {"count": 3}, tracking={"run_id": "r"})
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    folder, code, text = run_worker(settings, request, **quick)
    assert code == 0, text
    assert "The run lacks its last points" in text
    assert open_store(settings.store_uri).read_manifest(request.output_uri) is not None
    assert not (folder.work_dir / "tracking_cursor.json").exists()


def kill_at(process: subprocess.Popen[str], folder: JobFolder, step: int) -> None:
    """Send SIGKILL to the worker and its job once the job is past that step."""
    metrics = folder.out_dir / "metrics.jsonl"
    deadline = time.monotonic() + 30
    while not (metrics.exists() and metrics.read_text().count("\n") >= step):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    kill_marked(folder.path)  # the job holds the worker's output open
    process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_attempts_share_one_run_with_one_curve(settings: Settings, mlflow_server: Any) -> None:
    tracked = settings.model_copy(update={"tracking_uri": mlflow_server.uri})
    prices = DevicePrices(currency="EUR", cpu_hour=3600.0)
    request = make_request(settings, {"count": 140, "checkpoint_every": 25}, prices=prices)
    request = jobs.track(request, tracked, "words.train/manual__1")
    assert request.tracking is not None
    for attempt, step in ((1, 60), (2, 110), (3, None)):
        again = jobs.track(request, tracked, "words.train/manual__1")
        assert again.tracking == request.tracking
        folder = JobFolder(settings.state_dir / "jobs" / request.job_id)
        folder.write_launch(Launch(attempt=attempt, command=(), timeout_seconds=60, grace_seconds=1))
        folder, process = start_worker(tracked, request, PLUMBLINE_JOB_DIR=str(folder.path))
        if step is not None:
            kill_at(process, folder, step)
            with runs.connect(tracked.tracking_uri) as client:
                assert client.get_run(request.tracking.run_id).info.status == "RUNNING"
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    with runs.connect(tracked.tracking_uri) as client:
        run = client.get_run(request.tracking.run_id)
        curve = client.get_metric_history(request.tracking.run_id, "loss")
    assert [point.step for point in curve] == list(range(1, 141)), text
    assert (run.info.status, run.data.tags["plumbline.attempts"]) == ("FINISHED", "3")
    record = find_record(open_store(settings.store_uri), request.project, "train", request.spec_digest)
    assert record is not None
    assert record.attempts == 3
    assert run.data.metrics["cost/EUR"] == pytest.approx(record.seconds)
    assert run.data.metrics["cost/cpu_hours"] == pytest.approx(record.device_hours)
    assert total_compute(open_store(settings.store_uri), request.project).cpu_hours == pytest.approx(
        record.device_hours
    )


def test_the_time_of_a_failed_job_is_in_the_account(settings: Settings) -> None:
    run_worker(settings, make_request(settings, {"fail": "diverged"}))
    assert total_compute(open_store(settings.store_uri), "words").cpu_hours > 0
