"""TrainJobOperator: a job on an engine as an Airflow task that holds no worker slot while the GPUs work.

A retry or a clear makes the same request, hence the same job id: it finds the result, reattaches to the running job, or
resumes it from its checkpoint. A job that is preempted or lost is submitted again without using up a retry. Only a
person who kills the task, or an Airflow time limit, cancels the job; restarting the triggerer does not.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from airflow.triggers.base import BaseTrigger, TriggerEvent

from alignment.catalogues.lookup import resolve
from pipelines.contracts.jobs import JobHandle, JobKind, JobRequest, JobStatus
from pipelines.dispatch import claims, jobs
from pipelines.dispatch.claims import JobClaim
from pipelines.dispatch.engines.catalogue import open_engine
from pipelines.dispatch.engines.interface import TERMINAL_STATES, Engine
from pipelines.dispatch.job_kinds import find_kind
from pipelines.dispatch.job_titles import short_title
from pipelines.dispatch.operators.links import MLFLOW_RUN_KEY, MlflowRunLink
from pipelines.project.file import Project
from pipelines.project.slots import GPU_POOL, job_slots
from pipelines.records.jobs import note_starter
from pipelines.settings import load_settings
from pipelines.store.storage import open_store
from pipelines.tracking import pages, runs

REQUEST_BUILDER = "pipelines.stages.jobs:job_request"
"""(project path, stage, given, overrides=, generation=) -> JobRequest. Named, not imported: it joins all wings."""
POLL_SECONDS = 5.0
RESUBMIT_SECONDS = 10.0
"""Pause before a job that was preempted or lost is submitted again."""
UNREACHABLE_SECONDS = 600.0
"""Time for which a trigger tolerates an engine that does not respond."""
MAX_PREEMPTIONS = 50
MAX_LOSSES = 5
"""Interruptions in a row without one more unit of progress; then the task fails. Progress resets the count."""
OUTPUT_KEY = "output_uri"
"""Key of the XCom with the address of the job's output, see `results.result_of`."""
MAP_NAME = "{{ job_name }}"
"""`map_index_template` of a mapped job."""
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


def job_arguments(project: Project, project_path: str, host: int, stage: str) -> dict[str, Any]:
    """Return the arguments that every operator of a kind of job has: stage, project, pool and retries.

    A task takes a slot of the pool for each process of its job; `host` is the largest number of slots of a local job.
    """
    placement = getattr(project.placement, find_kind(stage).placement)
    slots = {"pool": GPU_POOL, "pool_slots": job_slots(placement, host)}
    return {"project_path": project_path, "stage": stage, **slots, "retry_policy": retry_policy()}


class TrainJobTrigger(BaseTrigger):
    """Watches one job until it ends and shows its log from `cursor` on; carries ids only."""

    def __init__(
        self,
        engine: str,
        job_id: str,
        poll_seconds: float = POLL_SECONDS,
        *,
        claim: Mapping[str, Any] | None = None,
        cursor: int = 0,
        resubmit_seconds: float = RESUBMIT_SECONDS,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine
        self.job_id = job_id
        self.poll_seconds = poll_seconds
        self.claim = claim
        self.cursor = cursor
        self.resubmit_seconds = resubmit_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        path = f"{TrainJobTrigger.__module__}.{TrainJobTrigger.__qualname__}"
        names = ("engine", "job_id", "poll_seconds", "claim", "cursor", "resubmit_seconds")
        return path, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll in threads, since engines block; yield one event when the job has ended."""
        engine, handle = self._open(), self._handle()
        responded = time.monotonic()
        while True:
            try:
                status = await asyncio.to_thread(engine.status, handle)
                await self._show_log(engine, handle)
                responded = time.monotonic()
            except Exception as error:
                if time.monotonic() - responded > UNREACHABLE_SECONDS:
                    raise
                self.log.warning("Engine %s does not respond: %s", self.engine, error)
                status = JobStatus(state="running")
            if status.state in TERMINAL_STATES or status.state == "unknown":
                if status.state in ("preempted", "lost", "unknown"):
                    await asyncio.sleep(self.resubmit_seconds)
                ended = {"engine": self.engine, "job_id": self.job_id, "state": status.state, "cursor": self.cursor}
                yield TriggerEvent(ended)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.poll_seconds)

    async def on_kill(self) -> None:
        """Stop every process of the job: a person marked or cleared the task."""
        await asyncio.to_thread(self._cancel)

    def _cancel(self) -> None:
        if self.claim is None:
            self._open().cancel(self._handle())
        else:
            claims.cancel_claimed(JobClaim.model_validate(self.claim), load_settings())

    async def _show_log(self, engine: Engine, handle: JobHandle) -> None:
        while (chunk := await asyncio.to_thread(engine.logs, handle, self.cursor)).cursor != self.cursor:
            for line in chunk.lines:
                self.log.info("%s", line)
            self.cursor = chunk.cursor

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
    operator_extra_links = (MlflowRunLink(),)

    def __init__(
        self,
        *,
        project_path: str,
        stage: JobKind,
        given: Mapping[str, Any],
        overrides: Sequence[str] = (),
        generation: int | str | None = None,
        poll_seconds: float = POLL_SECONDS,
        resubmit_seconds: float = RESUBMIT_SECONDS,
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
        self.resubmit_seconds = resubmit_seconds
        self.request_builder = request_builder
        self._claim: JobClaim | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the result if there is one, else ensure that the job runs and defer until it has ended."""
        return self._run(context, self._request(context))

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any],
        run_id: str = "",
        project: str = "unknown",
        interruptions: int = 0,
        furthest: int = 0,
        title: str = "",
    ) -> dict[str, Any]:
        """Return the value object of the job that has ended, or raise the JobError of its kind.

        A job that was preempted or lost is submitted again first: `interruptions` of them in a row came without
        progress beyond `furthest`.
        """
        settings = load_settings()
        _name_task(context, title)
        handle = JobHandle(engine=event["engine"], job_id=event["job_id"])
        self._claim = claim = _claim_of(context, handle, project=project, tracking_run_id=run_id)
        try:
            answer = jobs.collect(handle, settings)
        except jobs.JobError as error:
            status = jobs.poll(handle, settings)
            interruptions = 1 if status.progress_done > furthest else interruptions + 1
            request = self._request_again(context, error, status, interruptions=interruptions)
            if request is None:
                if run_id:
                    jobs.close_run(settings, run_id, error)
                claims.release(claim, settings)
                raise
            self.log.warning("%s\nIt is submitted again; no retry is used up.", str(error).partition("\n")[0])
            furthest = max(furthest, status.progress_done)
            cursor = int(event.get("cursor", 0))
            return self._run(context, request, interruptions=interruptions, furthest=furthest, cursor=cursor)
        claims.release(claim, settings)
        return answer

    def on_kill(self) -> None:
        """Stop every process of the job: the task was killed on its worker."""
        if self._claim is not None:
            claims.cancel_claimed(self._claim, load_settings())

    def _run(
        self,
        context: Mapping[str, Any],
        request: JobRequest,
        *,
        interruptions: int = 0,
        furthest: int = 0,
        cursor: int = 0,
    ) -> dict[str, Any]:
        """Return the result if there is one, else submit the job and defer."""
        settings = load_settings()
        store = open_store(settings.store_uri, settings)
        _name_task(context, short_title(request))
        answer = jobs.fetch_answer(request, store)
        if answer is not None:
            self.log.info("Found by digest, nothing to run: %s", request.output_uri)
            identity = (runs.JOB_ID_TAG, request.job_id)
            _push_run(context, pages.find_page(settings, request.project, identity))
            if self._claim is not None:
                claims.release(self._claim, settings)
            return answer
        note_starter(store, request, context["dag_run"].triggering_user_name or "")
        request = jobs.track(request, settings, _run_key(context))
        run_id = request.tracking.run_id if request.tracking else ""
        engine = open_engine(request.placement.engine, settings)
        handle = JobHandle(engine=request.placement.engine, job_id=request.job_id)
        self._remember(context, request)
        # Before the submit, so that a kill in between finds the job; a cancel of an unknown job does nothing.
        self._claim = _claim_of(context, handle, project=request.project, tracking_run_id=run_id)
        claims.take(self._claim, settings)
        engine.submit(request)
        self.log.info("Job %s on engine %s; log: %s", request.job_id, handle.engine, engine.log_location(handle))
        self.defer(
            trigger=TrainJobTrigger(
                handle.engine,
                handle.job_id,
                self.poll_seconds,
                claim=self._claim.model_dump(mode="json"),
                cursor=cursor,
                resubmit_seconds=self.resubmit_seconds,
            ),
            method_name="execute_complete",
            kwargs={
                "run_id": run_id,
                "project": request.project,
                "interruptions": interruptions,
                "furthest": furthest,
                "title": short_title(request),
            },
        )

    def _request_again(
        self, context: Mapping[str, Any], error: jobs.JobError, status: JobStatus, *, interruptions: int
    ) -> JobRequest | None:
        """Return the request to submit again after an interruption; None when the task must fail with the error."""
        assert self._claim is not None
        if isinstance(error, jobs.JobCancelled):
            again = claims.cancelled_for_another(self._claim, status.attempt, load_settings())
        else:
            limits = {jobs.Preempted: MAX_PREEMPTIONS, jobs.EngineLost: MAX_LOSSES}
            again = interruptions <= limits.get(type(error), 0)
        if not again:
            return None
        request = self._request(context)
        # The project file may have changed; then a retry of the task starts the job that it describes now.
        return request if request.job_id == self._claim.job_id else None

    def _request(self, context: Mapping[str, Any]) -> JobRequest:
        generation = self.generation
        if generation is None:
            generation = context["params"].get("generation", 0)
        builder = resolve(self.request_builder)
        try:
            request: JobRequest = builder(
                self.project_path,
                self.stage,
                dict(self.given),
                overrides=tuple(self.overrides),
                generation=int(generation),
            )
        except ValueError as error:  # The project, or what it is given, is wrong.
            raise jobs.ConfigError(str(error)) from error
        return request

    def _remember(self, context: Mapping[str, Any], request: JobRequest) -> None:
        """Note the job id for people, and the address of the output for `result_of`; nothing here depends on them."""
        context["ti"].xcom_push(key=OUTPUT_KEY, value=request.output_uri)
        if request.tracking is not None:
            _push_run(context, pages.run_page(load_settings(), request.tracking.run_id))
        state = context.get("task_state_store")
        if state is not None:
            state.set("job_id", request.job_id, retention=NEVER_EXPIRE)


def _name_task(context: Any, title: str) -> None:
    """Name a mapped task in Airflow's lists, for the template `MAP_NAME`."""
    context["job_name"] = title


def _push_run(context: Mapping[str, Any], page: str) -> None:
    if page:
        context["ti"].xcom_push(key=MLFLOW_RUN_KEY, value=page)


def _claim_of(context: Mapping[str, Any], handle: JobHandle, *, project: str, tracking_run_id: str) -> JobClaim:
    task_instance = context["ti"]
    map_index = task_instance.map_index
    return JobClaim(
        project=project,
        engine=handle.engine,
        job_id=handle.job_id,
        dag_id=task_instance.dag_id,
        run_id=task_instance.run_id,
        task_id=task_instance.task_id,
        map_index=-1 if map_index is None else map_index,
        try_id=str(task_instance.id),
        tracking_run_id=tracking_run_id,
    )


def _run_key(context: Mapping[str, Any]) -> str:
    """Return the key shared by the runs of one DAG run."""
    dag_run = context["dag_run"]
    return f"{dag_run.dag_id}/{dag_run.run_id}"
