"""jobs over a fake engine."""

from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk, TrackingTarget
from pipelines.dispatch import jobs
from pipelines.records.jobs import starters
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store
from pipelines.tracking import runs


class FakeEngine:
    """Returns the given states, one per request, the last one for ever."""

    def __init__(self, *states: str, failure_kind: Any = "", num_lines: int = 3) -> None:
        self.states = list(states)
        self.failure_kind = failure_kind
        self.lines = [f"line {number}" for number in range(num_lines)]
        self.submitted: list[JobRequest] = []
        self.cancelled: list[JobHandle] = []
        self.answer: dict[str, Any] | None = {"steps": 3}
        self.interrupt_at = -1

    def submit(self, request: JobRequest) -> JobHandle:
        self.submitted.append(request)
        return JobHandle(engine="fake", job_id=request.job_id)

    def status(self, handle: JobHandle) -> JobStatus:
        if len(self.states) == self.interrupt_at:
            raise KeyboardInterrupt
        state: Any = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return JobStatus(state=state, attempt=2, failure_kind=self.failure_kind, message="because", progress_done=1)

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        return LogChunk(lines=tuple(self.lines[cursor : cursor + 7]), cursor=min(cursor + 7, len(self.lines)))

    def log_location(self, handle: JobHandle) -> str:
        return "/logs/attempt-2.log"

    def cancel(self, handle: JobHandle) -> None:
        self.cancelled.append(handle)

    def result(self, handle: JobHandle) -> dict[str, Any]:
        if self.answer is None:
            raise LookupError("there is no output.")
        return self.answer


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.001)
    return load_settings(
        {"PLUMBLINE_STATE_DIR": str(tmp_path / "state"), "PLUMBLINE_STORE_URI": (tmp_path / "store").as_uri()}
    )


@pytest.fixture
def request_(settings: Settings) -> JobRequest:
    return made_request(
        spec={"seed": 1},
        output_uri=open_store(settings.store_uri).uri("models", "a"),
        placement=Placement(engine="fake"),
    )


def test_run_to_end_shows_each_line_and_every_state(request_: JobRequest, settings: Settings) -> None:
    engine = FakeEngine("pending", "running", "succeeded", num_lines=20)
    lines: list[str] = []
    seen: list[JobStatus] = []
    assert jobs.run_to_end(request_, settings, lines.append, on_progress=seen.append, engine=engine) == {"steps": 3}
    assert lines == engine.lines
    assert [status.state for status in seen] == ["pending", "running", "succeeded"]


def test_an_answer_in_the_store_is_given_without_an_engine(
    request_: JobRequest, settings: Settings, tmp_path: Path
) -> None:
    assert jobs.fetch_answer(request_, open_store(settings.store_uri, settings)) is None
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w").write_text("w")
    open_store(settings.store_uri).publish_folder(tmp_path / "out", request_.output_uri, {"steps": 9})
    assert jobs.fetch_answer(request_, open_store(settings.store_uri, settings)) == {"steps": 9}
    engine = FakeEngine("failed")
    assert jobs.run_to_end(request_, settings, engine=engine, parent_key="k") == {"steps": 9}
    assert engine.submitted == []


def test_the_person_who_starts_a_job_is_recorded_before_it_runs(request_: JobRequest, settings: Settings) -> None:
    store = open_store(settings.store_uri, settings)

    def known() -> list[str]:
        return starters(store, request_.project, request_.kind, request_.spec_digest)

    jobs.run_to_end(request_, settings, engine=FakeEngine("succeeded"))
    assert known() == []
    with pytest.raises(jobs.JobCrashed):
        jobs.run_to_end(request_, settings, engine=FakeEngine("failed"), started_by="ada")
    assert known() == ["ada"], "a failed job leaves checkpoints, from which the next one continues"


def test_a_keyboard_interrupt_cancels_the_job(request_: JobRequest, settings: Settings) -> None:
    engine = FakeEngine("running", "running", "running", "running")
    engine.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        jobs.run_to_end(request_, settings, engine=engine)
    assert [handle.job_id for handle in engine.cancelled] == [request_.job_id]


def test_an_error_carries_kind_job_last_40_lines_and_place(request_: JobRequest, settings: Settings) -> None:
    engine = FakeEngine("failed", failure_kind="diverged", num_lines=100)
    with pytest.raises(jobs.Diverged) as raised:
        jobs.run_to_end(request_, settings, engine=engine)
    message = str(raised.value)
    assert message.startswith(f"diverged: job {request_.job_id}, attempt 2: because")
    assert [f"line {number}\n" in message for number in (59, 60, 99)] == [False, True, True]
    assert message.endswith("/logs/attempt-2.log")


def test_bad_input_is_a_value_error_too_and_a_crash_is_not() -> None:
    assert issubclass(jobs.ConfigError, ValueError)
    assert not issubclass(jobs.JobCrashed, ValueError)


def test_a_success_without_an_output_is_lost(request_: JobRequest, settings: Settings) -> None:
    engine = FakeEngine("succeeded")
    engine.answer = None
    with pytest.raises(jobs.EngineLost, match="succeeded, but there is no output"):
        jobs.run_to_end(request_, settings, engine=engine)


def test_a_failed_tracked_job_has_its_run_closed(
    request_: JobRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[tuple[str, str]] = []
    target = TrackingTarget(run_id="run-1")
    monkeypatch.setattr(runs, "parent_run", lambda _settings, **_given: "parent")
    monkeypatch.setattr(runs, "job_run", lambda _settings, **_given: target)
    monkeypatch.setattr(runs, "finish_run", lambda _settings, *given: finished.append(given))
    engine = FakeEngine("preempted")
    with pytest.raises(jobs.Preempted):
        jobs.run_to_end(request_, settings, engine=engine, parent_key="words.train/r")
    assert engine.submitted[0].tracking == target
    assert finished == [("run-1", "KILLED")]


def test_an_unknown_engine_is_named_with_the_known_ones(request_: JobRequest, settings: Settings) -> None:
    misspelt = request_.model_copy(update={"placement": Placement(engine="loca")})
    with pytest.raises(ValueError, match=r"Unknown engine 'loca'\. Did you mean 'local'\?"):
        jobs.run_to_end(misspelt, settings)
