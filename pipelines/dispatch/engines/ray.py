"""The engine of a Ray cluster: attempts are submitted through its Jobs API and recorded in the object store.

A submission id is the job's id, a digest of the store and the number of the attempt, so a second submit of an attempt
finds the first, and installations with different stores may share a cluster. Jobs of Ray end with their cluster;
everything that must survive it is in the store (see cluster/attempts.py), and any host with the settings can ask for a
job. The driver and its ranks are in `pipelines.dispatch.cluster`.
"""

import importlib.util
import logging
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from alignment.contracts.jobs import Placement
from pipelines.contracts.jobs import JobHandle, JobRequest, JobStatus, LogChunk, SubmittedJob
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords, cluster_name, recorded_jobs
from pipelines.dispatch.cluster.shipping import ship_inputs
from pipelines.dispatch.cluster.versions import our_version
from pipelines.dispatch.engines.catalogue import Ray
from pipelines.dispatch.engines.interface import TERMINAL_STATES
from pipelines.dispatch.engines.local import JOB_ID
from pipelines.settings import Settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

DRIVER = "python -m pipelines.dispatch.cluster.driver"
PROBE = "python -m pipelines.dispatch.cluster.versions"
PROBE_SECONDS = 60.0
HTTP_SECONDS = 30.0
SUBMIT_SECONDS = 60.0
"""Time from the record of an attempt until Ray knows it; another submitter may be in between."""
STOP_SECONDS = 30.0
POLL_SECONDS = 0.3
SHOWN_CHARACTERS = 2000


class _Known(NamedTuple):
    """Ray's knowledge of an attempt."""

    found: bool
    active: bool
    """It is pending or running."""
    message: str
    """Ray's words about a submission that failed."""


class RayEngine:
    """See `engines.interface.Engine`. `worker` replaces the command that each rank runs on its node, for tests."""

    def __init__(self, settings: Settings, params: Ray | None = None, worker: Sequence[str] = ()) -> None:
        self.settings = settings
        self.params = params or Ray()
        self._worker = tuple(worker)
        self._store = open_store(settings.store_uri, settings)

    def submit(self, request: JobRequest) -> JobHandle:
        """See `Engine.submit`. ValueError when another spec uses this job id; ConnectionError without a cluster."""
        handle = JobHandle(engine=self.params.name, job_id=request.job_id)
        records = self._records(handle)
        number = records.latest()
        status = self._status(records, number)
        if number:
            _check_same_spec(records.read(number).request, request)
        if status.state not in TERMINAL_STATES | {"unknown"} and not records.is_cancelled(number):
            log.info("Job %s is already %s (attempt %d); reattached", handle.job_id, status.state, number)
            self._ensure_known(handle, number)
        elif status.state == "succeeded" and self._answer(request) is not None:
            log.info("Job %s has already succeeded", handle.job_id)
        else:
            self._start(handle, records, request, number=number)
        return handle

    def jobs(self) -> list[SubmittedJob]:
        """See `Engine.jobs`. They are read from the store, also without a cluster."""
        found = []
        for job_id in recorded_jobs(self._store):
            records = AttemptRecords(self._store, job_id)
            attempt = records.read(records.latest())
            started_at = datetime.fromtimestamp(attempt.created_at, UTC)
            handle = JobHandle(engine=self.params.name, job_id=job_id)
            found.append(SubmittedJob(handle=handle, request=attempt.request, started_at=started_at))
        return found

    def status(self, handle: JobHandle) -> JobStatus:
        """See `Engine.status`. `lost`: the driver disappeared before it could write a final state.

        While the cluster does not answer, the driver's last state holds, for `silence_seconds`.
        """
        records = self._records(handle)
        return self._status(records, records.latest())

    def logs(self, handle: JobHandle, cursor: int) -> LogChunk:
        """See `Engine.logs`. The cursor counts attempts and the bytes of the log of each."""
        finished = self.status(handle).state in TERMINAL_STATES
        return self._records(handle).read_log(cursor, finished=finished)

    def log_location(self, handle: JobHandle) -> str:
        """See `Engine.log_location`."""
        records = self._records(handle)
        return records.log_uri(max(records.latest(), 1))

    def cancel(self, handle: JobHandle) -> None:
        """See `Engine.cancel`. A driver that does not end in time is stopped through the Jobs API."""
        records = self._records(handle)
        number = records.latest()
        status = self._status(records, number)
        if status.state == "unknown" or status.state in TERMINAL_STATES - {"lost"}:
            log.info("Job %s is %s; nothing to cancel", handle.job_id, status.state)
            return
        records.request_cancel(number)
        if status.state != "lost":
            self._wait_for_the_end(records, number)
        self._stop(handle, number)
        state = records.read_state(number)
        if state is None or state.status.state not in TERMINAL_STATES - {"lost"}:
            cancelled = {"state": "cancelled", "message": "Cancelled on request."}
            records.write_status(number, status.model_copy(update=cancelled))

    def result(self, handle: JobHandle) -> dict[str, Any]:
        """See `Engine.result`."""
        records = self._records(handle)
        number = records.latest()
        if not number:
            raise LookupError(
                f"Job {handle.job_id} was never submitted to the Ray cluster of {self.settings.store_uri}."
            )
        request = records.read(number).request
        answer = self._answer(request)
        if answer is None:
            raise LookupError(f"Job {handle.job_id} has no finished output at {request.output_uri}.")
        return answer

    def check(self, placement: Placement) -> str:
        """Describe a cluster that can run a job of this placement; ValueError names the first thing that it lacks."""
        import ray

        theirs = self._ask(lambda: self._client._do_request("GET", "/api/version")).json()["ray_version"]
        if theirs != ray.__version__:
            raise ValueError(
                f"The cluster at {self.settings.ray_address} has Ray {theirs}, this host {ray.__version__}."
                " Install the same version on both."
            )
        version = self._cluster_version()
        if version != our_version():
            raise ValueError(
                f"The cluster at {self.settings.ray_address} has plumbline {version or 'not installed'}, this host"
                f" {our_version()}. Install the same version on both."
            )
        places = self._num_places(placement)
        least = placement.min_processes or placement.num_processes
        if places < least:
            needs = f"{placement.threads_per_process} CPU" + " and 1 GPU" * placement.gpus_per_process
            raise ValueError(
                f"The cluster at {self.settings.ray_address} has room for {places} processes of {needs} each, and the"
                f" placement needs {least}. Add nodes, or lower num_processes or min_processes."
            )
        return f"{self.settings.ray_address} responds: Ray {theirs}, plumbline {version}, room for {places} processes"

    def _cluster_version(self) -> str:
        """Return the version of plumbline on the cluster, by a job that prints it; empty when it has none."""
        submission_id = f"plumbline-doctor-{uuid.uuid4().hex[:12]}"
        self._ask(partial(self._client.submit_job, entrypoint=PROBE, submission_id=submission_id))
        deadline = time.monotonic() + PROBE_SECONDS
        while self._known(submission_id).active:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"A job that prints a version did not end within {PROBE_SECONDS:.0f} s on the cluster."
                )
            time.sleep(POLL_SECONDS)
        lines = self._ask(partial(self._client.get_job_logs, submission_id)).splitlines()
        found = [line.removeprefix("plumbline ") for line in lines if line.startswith("plumbline ")]
        return found[-1].strip() if found else ""

    def _num_places(self, placement: Placement) -> int:
        """Count the processes for which the live nodes have room, whatever runs there now."""
        answer = self._ask(lambda: self._client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")).json()
        totals = [n["resources_total"] for n in answer["data"]["result"]["result"] if n["state"] == "ALIVE"]
        needs = {"CPU": placement.threads_per_process, "GPU": placement.gpus_per_process}
        wanted = {name: number for name, number in needs.items() if number}
        return sum(min(int(total.get(name, 0) // number) for name, number in wanted.items()) for total in totals)

    # --- attempts ---

    def _records(self, handle: JobHandle) -> AttemptRecords:
        if not JOB_ID.fullmatch(handle.job_id):
            raise ValueError(f"Job id {handle.job_id!r} is not valid. Only letters, digits, _ and - are allowed.")
        return AttemptRecords(self._store, handle.job_id)

    def _answer(self, request: JobRequest) -> dict[str, Any] | None:
        manifest = self._store.read_manifest(request.output_uri)
        return manifest.value if manifest else None

    def _status(self, records: AttemptRecords, number: int) -> JobStatus:
        if not number:
            return JobStatus(state="unknown")
        state = records.read_state(number)
        if state is not None and state.status.state in TERMINAL_STATES:
            return state.status
        try:
            known = self._known(self._submission_id(records.job_id, number))
        except ConnectionError as error:
            return self._status_without_cluster(records, number, error)
        if known.active:
            return state.status if state is not None else JobStatus(state="pending", attempt=number)
        state = records.read_state(number)  # written after it was read above, if the driver ended in between
        if state is not None and state.status.state in TERMINAL_STATES:
            return state.status
        if state is None and time.time() - records.read(number).created_at < SUBMIT_SECONDS and not known.found:
            return JobStatus(state="pending", attempt=number)
        if state is None and known.message and not records.is_cancelled(number):
            message = f"The driver did not start on the cluster. Ray: {known.message[-SHOWN_CHARACTERS:].strip()}"
            return JobStatus(state="failed", attempt=number, failure_kind="crashed", message=message)
        return _lost(records, number, "The driver disappeared (killed, or the cluster restarted).")

    def _status_without_cluster(self, records: AttemptRecords, number: int, error: ConnectionError) -> JobStatus:
        state = records.read_state(number)
        last_sign = state.written_at if state is not None else records.read(number).created_at
        if time.time() - last_sign > self.params.silence_seconds:
            return _lost(records, number, f"{error} Its driver is silent too.")
        return state.status if state is not None else JobStatus(state="pending", attempt=number)

    def _start(self, handle: JobHandle, records: AttemptRecords, request: JobRequest, *, number: int) -> None:
        """Begin an attempt after attempt `number`; when another process has begun it, ensure that Ray knows it."""
        if number and not self._is_finished(records, number):
            self._stop(handle, number)
        attempt = Attempt(
            request=ship_inputs(request, self._store),
            grace_seconds=self.params.grace_seconds,
            resize_seconds=self.params.resize_seconds,
            version=our_version(),
            created_at=time.time(),
        )
        self._known(self._submission_id(handle.job_id, number + 1))  # without a cluster no attempt is recorded
        if records.create(number + 1, attempt):
            log.info("Job %s: attempt %d, log %s", handle.job_id, number + 1, records.log_uri(number + 1))
        self._submit(handle, number + 1)

    def _is_finished(self, records: AttemptRecords, number: int) -> bool:
        state = records.read_state(number)
        return state is not None and state.status.state in TERMINAL_STATES

    def _ensure_known(self, handle: JobHandle, number: int) -> None:
        """Submit a recorded attempt that Ray does not know: its submitter may have been killed in between."""
        try:
            if not self._known(self._submission_id(handle.job_id, number)).found:
                self._submit(handle, number)
        except ConnectionError as error:
            log.warning("%s Job %s is left as it is.", error, handle.job_id)

    def _wait_for_the_end(self, records: AttemptRecords, number: int) -> None:
        deadline = time.monotonic() + self.params.grace_seconds + STOP_SECONDS
        while time.monotonic() < deadline and self._status(records, number).state not in TERMINAL_STATES:
            time.sleep(POLL_SECONDS)

    # --- the Jobs API ---

    def _submit(self, handle: JobHandle, number: int) -> None:
        """Submit an attempt; a submission that Ray has already is the one that is wanted."""
        submission_id = self._submission_id(handle.job_id, number)
        arguments = [self.settings.store_uri, handle.job_id, str(number)]
        arguments += [shlex.join(self._worker)] if self._worker else []
        try:
            entrypoint = f"{DRIVER} {shlex.join(arguments)}"
            self._ask(partial(self._client.submit_job, entrypoint=entrypoint, submission_id=submission_id))
        except RuntimeError:
            if not self._known(submission_id).found:
                raise

    def _known(self, submission_id: str) -> _Known:
        try:
            info = self._ask(partial(self._client.get_job_info, submission_id))
        except RuntimeError as error:
            if "404" in str(error):
                return _Known(found=False, active=False, message="")
            raise
        active = not info.status.is_terminal()
        return _Known(found=True, active=active, message=info.message or "" if info.status == "FAILED" else "")

    def _submission_id(self, job_id: str, number: int) -> str:
        return f"{cluster_name(self.settings.store_uri, job_id)}-a{number}"

    def _stop(self, handle: JobHandle, number: int) -> None:
        """Stop a submission that runs, and wait until Ray has ended its processes."""
        submission_id = self._submission_id(handle.job_id, number)
        deadline = time.monotonic() + STOP_SECONDS
        stopping = False
        while self._known(submission_id).active:
            if not stopping:
                self._ask(partial(self._client.stop_job, submission_id))
                stopping = True
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Ray did not stop {submission_id} within {STOP_SECONDS:.0f} s. Look at its dashboard."
                )
            time.sleep(POLL_SECONDS)

    @cached_property
    def _client(self) -> Any:
        """Return a client of the Jobs API. ConnectionError when the cluster does not answer, ValueError without an
        address or with a token that it refuses.
        """
        address = self.settings.ray_address
        if not address:
            raise ValueError(
                "The engine 'ray' needs the address of a cluster. Set PLUMBLINE_RAY_ADDRESS, e.g. http://ray-head:8265,"
                " and RAY_AUTH_TOKEN to its token; or set engine = 'local' in [placement]."
            )
        if importlib.util.find_spec("ray") is None:
            raise ValueError("The engine 'ray' needs the package ray on this host. Run pip install 'plumbline[ray]'.")
        token = self.settings.ray_token.get_secret_value()
        return self._ask(partial(_jobs_client, address, token))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask the cluster; name the address in any error, and never the token."""
        import requests
        from ray.exceptions import AuthenticationError

        address = self.settings.ray_address
        try:
            return question()
        except AuthenticationError:
            message = f"The Ray cluster at {address} refuses the token. Set RAY_AUTH_TOKEN to the token of the cluster."
        except (requests.exceptions.RequestException, ConnectionError) as error:
            reason = type(error).__name__
            raise ConnectionError(f"The Ray cluster at {address} does not answer ({reason}).") from error
        raise ValueError(message)


def _jobs_client(address: str, token: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Limits the time of every request; Ray's client waits for ever."""

        def _do_request(self, method: str, endpoint: str, **fields: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": HTTP_SECONDS, **fields})

    return Client(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _lost(records: AttemptRecords, number: int, reason: str) -> JobStatus:
    if records.is_cancelled(number):
        return JobStatus(state="cancelled", attempt=number, message="Cancelled on request.")
    return JobStatus(state="lost", attempt=number, message=f"{reason} Submit again to resume.")


def _check_same_spec(known: JobRequest, request: JobRequest) -> None:
    if known.spec_digest != request.spec_digest:
        raise ValueError(
            f"Job {request.job_id} is used by spec {known.spec_digest}, not {request.spec_digest}."
            " Raise the generation of this one."
        )
