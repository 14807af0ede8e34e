"""Drive one attempt of a job on a Ray cluster: `python -m pipelines.dispatch.cluster.driver STORE_URI JOB_ID NUMBER`.

The Jobs API starts it on the head node. It lets Ray Train run one actor per rank, each with a supervised worker, passes
their log and progress on to the store, and writes the attempt's final state last.
"""

import logging
import math
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import uuid
from functools import partial
from types import FrameType
from typing import Any

from alignment.contracts.jobs import Placement, Progress
from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords, LogWriter
from pipelines.dispatch.cluster.board import Board, News, Order
from pipelines.dispatch.cluster.kept_work import KeptWork
from pipelines.dispatch.cluster.rank import Place, RankRun, free_port
from pipelines.dispatch.cluster.versions import our_version
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "pipelines.dispatch.worker")
POLL_SECONDS = 0.5
LOOK_EVERY_SECONDS = 2.0
"""Time between two looks for a cancel."""
STATE_EVERY_SECONDS = 10.0
STOP_EXTRA_SECONDS = 30.0
"""Time after the grace period in which the ranks save their work to the store."""
PAUSE_SECONDS = 120.0
"""Longest time that a group is given to save its work before its size changes."""
TRAIN_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def main(arguments: list[str]) -> int:
    """Run an attempt to its end; return 0 when the job has succeeded."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    store_uri, job_id, number = arguments[:3]
    worker = tuple(shlex.split(arguments[3])) if len(arguments) > 3 else WORKER
    settings = load_settings().model_copy(update={"store_uri": store_uri})
    records = AttemptRecords(open_store(store_uri, settings), job_id)
    status = _run(_Drive(settings, records, int(number), worker))
    records.write_status(int(number), status)
    return 0 if status.state == "succeeded" else 1


class _Drive:
    """The inputs of an attempt, and the SIGTERM that may end it."""

    def __init__(self, settings: Settings, records: AttemptRecords, number: int, worker: tuple[str, ...]) -> None:
        self.settings, self.records, self.number, self.worker = settings, records, number, worker
        self.attempt = records.read(number)
        self.stop_asked = False

    def on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        """Remember the request to stop."""
        self.stop_asked = True

    def failed(self, message: str, **fields: Any) -> JobStatus:
        """Return the status of an attempt that ended without a rank's own status."""
        fields = {"state": "failed", "failure_kind": "crashed", **fields}
        return JobStatus(attempt=self.number, message=message, **fields)


def _run(drive: _Drive) -> JobStatus:
    """Run the attempt; return its final status, whatever happens."""
    ours = our_version()
    if drive.attempt.version != ours:
        message = f"The Ray cluster has plumbline {ours}, the control plane {drive.attempt.version}. Install the same."
        return drive.failed(message, failure_kind="bad_input")
    os.environ.update({name: value for name, value in TRAIN_SETTINGS.items() if name not in os.environ})
    import ray

    ray.init(log_to_driver=False, logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, drive.on_sigterm)
    here = ray.get_runtime_context().get_node_id()
    board = ray.remote(Board).options(num_cpus=0, max_restarts=0, label_selector={"ray.io/node-id": here}).remote()
    return _watch(drive, board, _Training(drive, board))


class _Training:
    """Ray Train in a thread, since it blocks and the main thread answers signals."""

    def __init__(self, drive: _Drive, board: Any) -> None:
        self._drive = drive
        self._board = board
        self.error = ""
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return True while it runs."""
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            _trainer(self._drive, self._board).fit()
        except Exception as error:
            log.exception("Ray Train ended with an error")
            self.error = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _trainer(drive: _Drive, board: Any) -> Any:
    """Make the trainer: a group of ranks that Ray Train starts, watches, and starts again after a loss or a resize."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    placement = drive.attempt.request.placement
    config = {
        "attempt": drive.attempt.model_dump_json(),
        "number": drive.number,
        "store_uri": drive.settings.store_uri,
        "worker": list(drive.worker),
        "board": board,
    }
    return DataParallelTrainer(
        run_in_actor,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=_num_workers(placement),
            use_gpu=bool(placement.gpus_per_process),
            resources_per_worker=_resources(placement),
            elastic_resize_monitor_interval_s=drive.attempt.resize_seconds,
        ),
        run_config=RunConfig(
            name=f"{drive.attempt.request.job_id}-{drive.number}",
            storage_path=tempfile.mkdtemp(prefix="plumbline-train-"),  # no checkpoint is given to Ray Train
            failure_config=FailureConfig(max_failures=placement.max_restarts, max_preemption_failures=-1),
            callbacks=[_pause_callback(board)],
        ),
    )


def _num_workers(placement: Placement) -> int | tuple[int, int]:
    least = placement.min_processes
    return placement.num_processes if least is None else (least, placement.num_processes)


def _resources(placement: Placement) -> dict[str, float]:
    """Return the resources of one process."""
    resources = {"CPU": float(placement.threads_per_process)}
    return resources | ({"GPU": 1.0} if placement.gpus_per_process else {})


def _pause_callback(board: Any) -> Any:
    """Make the callback that lets a group save its work before Ray Train ends it to change its size."""
    import ray
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class PauseBeforeResize(ControllerCallback):  # type: ignore[misc]
        def before_controller_execute_resize_decision(self, _decision: Any) -> None:
            ray.get(board.pause.remote())
            deadline = time.monotonic() + PAUSE_SECONDS
            while not ray.get(board.is_paused.remote()) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    return PauseBeforeResize()


def run_in_actor(config: dict[str, Any]) -> None:
    """Run one rank in its actor on a node of the cluster."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    context = ray.train.get_context()
    rank, attempt = context.get_world_rank(), Attempt.model_validate_json(config["attempt"])
    settings = load_settings().model_copy(update={"store_uri": config["store_uri"]})
    store = open_store(settings.store_uri, settings)
    records = AttemptRecords(store, attempt.request.job_id)
    meeting = {}
    if rank == 0:
        KeptWork(store, records.work_uri, settings.state_dir).gather()
        address = ray.util.get_node_ip_address()
        meeting = {"group": uuid.uuid4().hex, "master_address": address, "master_port": free_port()}
    meeting = broadcast_from_rank_zero(meeting)
    place = Place(rank=rank, world=context.get_world_size(), **meeting)
    run = RankRun(
        attempt,
        config["number"],
        place,
        settings=settings,
        store=store,
        board=_RemoteBoard(config["board"]),
        worker=tuple(config["worker"]),
    )
    run.run(_PreemptionNotice().is_given)


class _RemoteBoard:
    """The board, from another process."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def report(self, group: str, rank: int, world: int, log: bytes, progress: Progress | None) -> Order:
        """See Board.report."""
        order: Order = self._ask("report", group, rank, world, log, progress)
        return order

    def end(self, rank: int, status: JobStatus) -> None:
        """See Board.end."""
        self._ask("end", rank, status)

    def paused(self, group: str, rank: int) -> None:
        """See Board.paused."""
        self._ask("paused", group, rank)

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))


class _PreemptionNotice:
    """Ask Ray Train for the notice of a preemption, in a thread: the question waits for all ranks."""

    def __init__(self) -> None:
        self._given = False
        threading.Thread(target=self._ask, name="preemption-notice", daemon=True).start()

    def is_given(self) -> bool:
        """Return True once a node of the group is going to be taken away."""
        return self._given

    def _ask(self) -> None:
        from ray.train import get_preemption_info

        while not self._given:
            time.sleep(1.0)
            try:
                self._given = get_preemption_info() is not None
            except Exception as error:
                log.debug("No answer about preemptions: %s", error)


def _watch(drive: _Drive, board: Any, training: _Training) -> JobStatus:
    """Pass log, progress and orders on until Ray Train has ended; return the final status."""
    writer = LogWriter(drive.records, drive.number)
    desk = _Desk(drive, partial(_call, board))
    while True:
        alive = training.is_alive()  # before the last look at the board
        news: News = _call(board, "take")
        if news.log:
            writer.append(news.log)
        if not alive or desk.is_stopped(news):
            return _final(drive, news, training.error)
        desk.pass_orders()
        desk.note(news)
        time.sleep(POLL_SECONDS)


def _call(board: Any, name: str, *arguments: Any) -> Any:
    import ray

    return ray.get(getattr(board, name).remote(*arguments))


class _Desk:
    """Orders that come in, and states that go out, each no more often than needed."""

    def __init__(self, drive: _Drive, call: Any) -> None:
        self._drive, self._call = drive, call
        self._looked_at = self._noted_at = 0.0
        self._noted: JobStatus | None = None
        self._gave_up_at = math.inf

    def is_stopped(self, news: News) -> bool:
        """Return True when an order to stop was given and no rank is left that could follow it."""
        return self._gave_up_at < math.inf and (not news.started or time.monotonic() > self._gave_up_at)

    def pass_orders(self) -> None:
        """Give a cancel or a SIGTERM to the ranks."""
        if self._drive.stop_asked:
            self._stop("preempt")
        if time.monotonic() - self._looked_at > LOOK_EVERY_SECONDS:
            self._looked_at = time.monotonic()
            if self._drive.records.is_cancelled(self._drive.number):
                self._stop("cancel")

    def _stop(self, order: Order) -> None:
        self._call("give", order)
        if self._gave_up_at == math.inf:
            self._gave_up_at = time.monotonic() + self._drive.attempt.grace_seconds + STOP_EXTRA_SECONDS

    def note(self, news: News) -> None:
        """Write the state of the attempt when it changed or the last one is old."""
        status = _with_progress(
            JobStatus(state="running" if news.started else "pending", attempt=self._drive.number), news
        )
        age = time.monotonic() - self._noted_at
        changed = self._noted is None or status.state != self._noted.state
        if changed or age > STATE_EVERY_SECONDS or (status != self._noted and age > LOOK_EVERY_SECONDS):
            self._drive.records.write_status(self._drive.number, status)
            self._noted, self._noted_at = status, time.monotonic()


def _final(drive: _Drive, news: News, error: str) -> JobStatus:
    """Return the final status: that of the rank that caused the end, or success, or the error of Ray Train."""
    if news.finished:
        store = open_store(drive.settings.store_uri, drive.settings)
        KeptWork(store, drive.records.work_uri, drive.settings.state_dir).delete()
        return _with_progress(JobStatus(state="succeeded", attempt=drive.number, exit_code=0), news)
    if drive.records.is_cancelled(drive.number):
        return drive.failed("Cancelled on request.", state="cancelled", failure_kind="")
    if news.cause is not None:
        return _with_progress(news.cause, news)
    if drive.stop_asked:
        return drive.failed("Stopped by SIGTERM.", state="preempted", failure_kind="preempted", exit_code=143)
    restarts = drive.attempt.request.placement.max_restarts
    return drive.failed(
        f"Workers or nodes were lost more than placement.max_restarts = {restarts} times, or could not be started."
        f" The last error: {error or 'none'}"
    )


def _with_progress(status: JobStatus, news: News) -> JobStatus:
    if news.progress is None:
        return status
    done = {"progress_done": news.progress.done, "progress_total": news.progress.total}
    return status.model_copy(update={**done, "progress_unit": news.progress.unit})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
