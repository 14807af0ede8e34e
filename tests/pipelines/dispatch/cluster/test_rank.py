"""One rank with real processes and signals, over the board itself: no Ray is needed."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement
from pipelines.dispatch.cluster.attempts import Attempt, AttemptRecords
from pipelines.dispatch.cluster.board import Board
from pipelines.dispatch.cluster.kept_work import KeptWork
from pipelines.dispatch.cluster.rank import Place, RankRun, _rank_folder
from pipelines.host import _marked_pids, kill_marked
from pipelines.settings import Settings, load_settings
from pipelines.store.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

COUNTING = (sys.executable, str(Path(__file__).parents[1] / "engines" / "counting_worker.py"))


class Node:
    """A host with its own state folder, on which one rank of a job runs in a thread."""

    def __init__(self, root: Path, name: str, board: Board, **spec: Any) -> None:
        environ = {"PLUMBLINE_STATE_DIR": str(root / name), "PLUMBLINE_STORE_URI": (root / "store").as_uri()}
        self.settings: Settings = load_settings(environ)
        self.board = board
        self.preempted = False
        self.request = made_request(
            self.settings.store_uri,
            project="count",
            spec={"count": 200, **spec},
            placement=Placement(engine="ray", timeout_seconds=50),
        )
        self.folder = _rank_folder(self.settings, self.request.job_id, 0)
        self.thread = threading.Thread(target=self._run, args=(name,), daemon=True)

    def _run(self, group: str) -> None:
        attempt = Attempt(request=self.request, grace_seconds=2, resize_seconds=1, version="1", created_at=time.time())
        place = Place(group=group, rank=0, world=1, master_address="", master_port=0)
        store = open_store(self.settings.store_uri, self.settings)
        run = RankRun(attempt, 1, place, settings=self.settings, store=store, board=self.board, worker=COUNTING)
        run.run(lambda: self.preempted)

    def start(self) -> "Node":
        self.thread.start()
        return self

    def count(self) -> int:
        path = self.folder.out_dir / "count"
        return int(path.read_text()) if path.exists() else 0

    def wait_for(self, ready: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 20
        while not ready():
            assert time.monotonic() < deadline, f"waited for {what}: {self.board.take()}"
            time.sleep(0.05)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def start(tmp_path: Path, board: Board) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(name: str, **spec: Any) -> Node:
        nodes.append(Node(tmp_path, name, board, **spec).start())
        return nodes[-1]

    yield make
    board.give("kill")
    for node in nodes:
        node.thread.join(timeout=20)
        kill_marked(node.folder.path)


def test_success_reaches_the_board_with_the_log(start: Callable[..., Node], board: Board) -> None:
    node = start("a", count=2)
    node.thread.join(timeout=20)
    news = board.take()
    assert news.finished
    assert news.progress is not None
    assert (news.progress.done, news.progress.total) == (2, 2)
    assert b"number 1\nnumber 2\n" in news.log
    assert open_store(node.settings.store_uri).read_manifest(node.request.output_uri) is not None


def test_a_rank_reports_while_it_saves_a_lot(
    start: Callable[..., Node], board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload of a large checkpoint takes minutes; a rank that is silent would be taken for dead."""
    saving, reports = threading.Event(), list[bool]()
    save, report = KeptWork.save, board.report

    def slow(kept: KeptWork, *, complete: bool = False) -> None:
        saving.set()
        time.sleep(2)
        saving.clear()
        save(kept, complete=complete)

    def counted(*arguments: Any) -> Any:
        reports.append(saving.is_set())
        return report(*arguments)

    monkeypatch.setattr(KeptWork, "save", slow)
    monkeypatch.setattr(board, "report", counted)
    start("a", count=2).thread.join(timeout=30)
    assert board.take().finished
    assert sum(reports) >= 4


def test_a_notice_pauses_and_another_node_continues_without_loss(start: Callable[..., Node], board: Board) -> None:
    first = start("a", count=30)
    first.wait_for(lambda: first.count() >= 3, "a count of 3")
    first.preempted = True
    first.wait_for(board.is_paused, "the pause")
    reached = first.count()
    assert first.thread.is_alive(), "it holds its place until the group is ended"
    assert board.take().cause is None
    assert not _marked_pids(first.folder.path)
    second = start("b", count=30)
    second.thread.join(timeout=20)
    news = board.take()
    assert news.finished
    assert f"counting from {reached}\n".encode() in news.log


def test_a_pause_before_a_resize_does_the_same(start: Callable[..., Node], board: Board) -> None:
    node = start("a")
    node.wait_for(lambda: node.count() >= 2, "a count of 2")
    board.pause()
    node.wait_for(board.is_paused, "the pause")
    board.give("cancel")
    node.thread.join(timeout=20)
    cause = board.take().cause
    assert cause is not None
    assert cause.state == "cancelled"


@pytest.mark.parametrize(("order", "state"), [("cancel", "cancelled"), ("preempt", "preempted"), ("kill", "failed")])
def test_an_order_ends_the_rank(start: Callable[..., Node], board: Board, order: Any, state: str) -> None:
    node = start("a")
    node.wait_for(lambda: node.count() >= 2, "a count of 2")
    board.give(order)
    node.thread.join(timeout=20)
    assert not node.thread.is_alive()
    cause = board.take().cause
    assert cause is not None
    assert cause.state == state
    assert not _marked_pids(node.folder.path)


def test_a_killed_worker_keeps_its_work_and_its_reason(start: Callable[..., Node], board: Board) -> None:
    node = start("a", count=30)
    node.wait_for(lambda: node.count() >= 3, "a count of 3")
    # The worker alone: without the process that waits for its supervisor, the rank would kill the supervisor as well.
    os.kill(json.loads((node.folder.out_dir / "pids.json").read_bytes())["worker"], signal.SIGKILL)
    node.thread.join(timeout=20)
    cause = board.take().cause
    assert cause is not None
    assert "SIGKILL" in cause.message
    board.__init__()  # type: ignore[misc]
    again = start("b", count=30)
    again.thread.join(timeout=20)
    news = board.take()
    assert news.finished
    assert b"counting from 0\n" not in news.log


def test_an_attempt_that_a_later_one_replaced_saves_nothing(start: Callable[..., Node], board: Board) -> None:
    node = start("a")
    node.wait_for(lambda: node.count() >= 2, "a count of 2")
    store = open_store(node.settings.store_uri)
    records = AttemptRecords(store, node.request.job_id)
    attempt = Attempt(request=node.request, grace_seconds=2, resize_seconds=1, version="1", created_at=0.0)
    records.create(2, attempt)
    before = store.list_uris(records.work_uri)
    board.give("preempt")
    node.thread.join(timeout=20)
    assert store.list_uris(records.work_uri) == before


def test_a_killed_supervisor_is_a_crash_and_leaves_nothing(start: Callable[..., Node], board: Board) -> None:
    node = start("a")
    node.wait_for(lambda: node.count() >= 1, "a count of 1")
    supervisor = node.folder.read_supervisor()
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    node.thread.join(timeout=20)
    cause = board.take().cause
    assert cause is not None
    assert (cause.failure_kind, "supervisor" in cause.message) == ("crashed", True)
    assert not _marked_pids(node.folder.path)


def test_a_place_of_several_has_what_torch_needs() -> None:
    place = Place(group="g", rank=1, world=2, master_address="10.0.0.1", master_port=7)
    assert place.environment() == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "7",
    }
    assert place.model_copy(update={"rank": 0, "world": 1}).environment() == {"RANK": "0"}
