"""TrainJobOperator: a job on an engine as an Airflow task that holds no worker slot while the GPUs work.

A retry or a clear makes the same request, hence the same job id: it finds the result, reattaches to the running job, or
resumes it from its checkpoint. Only a person who kills the task, or an Airflow time limit, cancels the job; restarting
the triggerer does not.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from airflow.triggers.base import BaseTrigger, TriggerEvent

from alignment.catalogues.lookup import resolve
from pipelines.contracts.jobs import JobHandle, JobKind, JobRequest
from pipelines.dispatch import jobs
from pipelines.dispatch.engines.catalogue import open_engine
from pipelines.dispatch.engines.interface import TERMINAL_STATES, Engine
from pipelines.records.jobs import note_starter
from pipelines.settings import load_settings
from pipelines.store.storage import open_store

REQUEST_BUILDER = "pipelines.stages.jobs:job_request"
"""(project path, stage, given, overrides=, generation=) -> JobRequest. Named, not imported: it joins all wings."""
POLL_SECONDS = 5.0
PREEMPTED_RETRY_DELAY = timedelta(seconds=10)


def retry_policy() -> ExceptionRetryPolicy:
    """Fail at once on errors that a retry cannot fix; retry those it can resume, within the task's `retries`."""

    def named(*classes: type[jobs.JobError]) -> list[type[BaseException] | str]:
        return [f"{cls.__module__}.{cls.__qualname__}" for cls in classes]

    return ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception=named(jobs.ConfigError, jobs.DataError, jobs.Diverged, jobs.OutOfMemory, jobs.JobCancelled),
                action=RetryAction.FAIL,
                reason="A retry would fail the same way.",
            ),
            RetryRule(
                exception=named(jobs.Preempted, jobs.EngineLost),
                action=RetryAction.RETRY,
                retry_delay=PREEMPTED_RETRY_DELAY,
                reason="The job resumes from its last checkpoint.",
            ),
            RetryRule(
                exception=named(jobs.JobCrashed, jobs.StorageFull),
                action=RetryAction.RETRY,
                reason="The job resumes from its last checkpoint.",
            ),
        ]
    )


class TrainJobTrigger(BaseTrigger):
    """Watches one job until it ends and shows its log; carries ids only."""

    def __init__(self, engine: str, job_id: str, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine
        self.job_id = job_id
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        path = f"{TrainJobTrigger.__module__}.{TrainJobTrigger.__qualname__}"
        return path, {"engine": self.engine, "job_id": self.job_id, "poll_seconds": self.poll_seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll in threads, since engines block; yield one event when the job has ended."""
        engine, handle, cursor = self._open(), self._handle(), 0
        while True:
            status = await asyncio.to_thread(engine.status, handle)
            cursor = await self._show_log(engine, handle, cursor)
            if status.state in TERMINAL_STATES or status.state == "unknown":
                ended = {"engine": self.engine, "job_id": self.job_id, "state": status.state}
                yield TriggerEvent(ended)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.poll_seconds)

    async def on_kill(self) -> None:
        """Stop every process of the job: a person marked or cleared the task."""
        await asyncio.to_thread(self._open().cancel, self._handle())

    async def _show_log(self, engine: Engine, handle: JobHandle, cursor: int) -> int:
        while (chunk := await asyncio.to_thread(engine.logs, handle, cursor)).cursor != cursor:
            for line in chunk.lines:
                self.log.info("%s", line)
            cursor = chunk.cursor
        return cursor

    def _open(self) -> Engine:
        return open_engine(self.engine, load_settings())

    def _handle(self) -> JobHandle:
        return JobHandle(engine=self.engine, job_id=self.job_id)


class TrainJobOperator(BaseOperator):
    """Run one job stage of a project and push its value object.

    `stage` names a kind of job and `given` holds its fields as JSON, see `pipelines.dispatch.job_kinds`. `overrides`
    are recipe overrides. `generation` defaults to the DAG run's param of that name; a higher one runs the same spec
    again.
    """

    template_fields: Sequence[str] = ("project_path", "given", "overrides", "generation")
    ui_color = "#e8d5f2"

    def __init__(
        self,
        *,
        project_path: str,
        stage: JobKind,
        given: Mapping[str, Any],
        overrides: Sequence[str] = (),
        generation: int | str | None = None,
        poll_seconds: float = POLL_SECONDS,
        request_builder: str = REQUEST_BUILDER,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.project_path = project_path
        self.stage = stage
        self.given = given
        self.overrides = overrides
        self.generation = generation
        self.poll_seconds = poll_seconds
        self.request_builder = request_builder
        self._handle: JobHandle | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the result if there is one, else ensure that the job runs and defer until it has ended."""
        settings = load_settings()
        request = self._request(context)
        answer = jobs.fetch_answer(request, open_store(settings.store_uri, settings))
        if answer is not None:
            self.log.info("Found by digest, nothing to run: %s", request.output_uri)
            return answer
        note_starter(open_store(settings.store_uri, settings), request, context["dag_run"].triggering_user_name or "")
        request = jobs.track(request, settings, _run_key(context))
        engine = open_engine(request.placement.engine, settings)
        # Before the submit, so that a kill in between finds the job; a cancel of an unknown job does nothing.
        self._handle = JobHandle(engine=request.placement.engine, job_id=request.job_id)
        self._handle = engine.submit(request)
        self._remember(context, request)
        self.log.info(
            "Job %s on engine %s; log: %s", request.job_id, self._handle.engine, engine.log_location(self._handle)
        )
        run_id = request.tracking.run_id if request.tracking else ""
        self.defer(
            trigger=TrainJobTrigger(self._handle.engine, self._handle.job_id, self.poll_seconds),
            method_name="execute_complete",
            kwargs={"run_id": run_id},
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any], run_id: str = "") -> dict[str, Any]:
        """Return the value object of the job that has ended, or raise the JobError of its kind."""
        settings = load_settings()
        self._handle = JobHandle(engine=event["engine"], job_id=event["job_id"])
        try:
            return jobs.collect(self._handle, settings)
        except jobs.JobError as error:
            if run_id:
                jobs.close_run(settings, run_id, error)
            raise

    def on_kill(self) -> None:
        """Stop every process of the job: the task was killed on its worker."""
        if self._handle is not None:
            jobs.cancel(self._handle, load_settings())

    def _request(self, context: Context) -> JobRequest:
        generation = self.generation
        if generation is None:
            generation = context["params"].get("generation", 0)
        builder = resolve(self.request_builder)
        request: JobRequest = builder(
            self.project_path,
            self.stage,
            dict(self.given),
            overrides=tuple(self.overrides),
            generation=int(generation),
        )
        return request

    def _remember(self, context: Context, request: JobRequest) -> None:
        """Store the job id with the task, for people: the id is deterministic, so nothing depends on it."""
        state = context.get("task_state_store")
        if state is not None:
            state.set("job_id", request.job_id, retention=NEVER_EXPIRE)


def _run_key(context: Context) -> str:
    """Return the key shared by the runs of one DAG run."""
    dag_run = context["dag_run"]
    return f"{dag_run.dag_id}/{dag_run.run_id}"
