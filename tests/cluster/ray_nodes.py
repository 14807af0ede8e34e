"""A Ray cluster of real nodes on this host, which share no folder of ours: each has its own state and temporary folder.

Used by the fixture `ray_nodes` of the tests and by the benchmark of Ray workers.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
OBJECT_STORE_BYTES = 80 * 1024 * 1024
PORTS_PER_NODE = 200


class RayNodes:
    """A head and any number of other nodes, all started by `ray start` with a token, and ended by `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(32)
        self.sessions: dict[str, int] = {}
        """Session of the processes of each node."""
        # A socket's path is limited to 107 bytes, and Ray adds about 60 to this one.
        self._temporary = Path(tempfile.mkdtemp(prefix="rn"))
        self._gcs_port, self._dashboard_port = free_ports(2)

    @property
    def address(self) -> str:
        """Address for PLUMBLINE_RAY_ADDRESS."""
        return f"http://127.0.0.1:{self._dashboard_port}"

    def state_dir(self, node: str) -> Path:
        """Return the state folder of a node."""
        return self.folder / node

    def start_head(self, node: str = "a", *, cpus: int = 2) -> None:
        """Start the head, with its dashboard on the loopback interface."""
        client_port, agent_port = free_ports(2)
        ports = [f"--port={self._gcs_port}", f"--ray-client-server-port={client_port}"]
        ports += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}"]
        ports += [f"--dashboard-agent-listen-port={agent_port}"]
        self._start(node, ["--head", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *ports], cpus)
        wait_for(self._answers, "the dashboard to answer")

    def start_node(self, node: str = "b", *, cpus: int = 2) -> None:
        """Start another node."""
        (agent_port,) = free_ports(1)
        self._start(
            node,
            [f"--address=127.0.0.1:{self._gcs_port}", f"--dashboard-agent-listen-port={agent_port}"],
            cpus,
        )

    def kill(self, node: str) -> None:
        """End every process of a node with SIGKILL, as a power failure does."""
        for pid in self._pids(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self._pids(node), f"node {node} to end")

    def take_away(self, node: str) -> None:
        """End a node as the end of a drained machine does: its raylet leaves the cluster, then everything is killed."""
        for pid in self._pids(node):
            with suppress(OSError):
                if (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[0].endswith(b"raylet/raylet"):
                    os.kill(pid, signal.SIGTERM)
        time.sleep(2)
        self.kill(node)

    def drain(self, node: str, *, seconds: int) -> None:
        """Announce that a node will be taken away: the notice that a cloud gives for a preempted machine."""
        node_id = self.node_id(node)
        subprocess.run(
            [
                *(ray_command(), "drain-node", f"--address=127.0.0.1:{self._gcs_port}", f"--node-id={node_id}"),
                *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"),
                f"--deadline-remaining-seconds={seconds}",
            ],
            env=self.environment(node),
            check=True,
            capture_output=True,
            timeout=60,
        )

    def node_id(self, node: str) -> str:
        """Return Ray's id of a live node."""
        labels = {n["nodeId"]: n for n in self.nodes()}
        found = [i for i, n in labels.items() if n.get("resourcesTotal", {}).get(f"node_{node}")]
        assert len(found) == 1, (node, labels)
        return str(found[0])

    def nodes(self) -> list[dict[str, Any]]:
        """List the live nodes as the dashboard describes them."""
        answer = self.get("/api/v0/nodes?detail=1&limit=100")
        rows = answer["data"]["result"]["result"]
        return [
            {"nodeId": row["node_id"], "resourcesTotal": row["resources_total"]}
            for row in rows
            if row["state"] == "ALIVE"
        ]

    def get(self, path: str) -> Any:
        """Ask the dashboard."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def environment(self, node: str) -> dict[str, str]:
        """Return the environment of a node, which its jobs inherit."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PLUMBLINE_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "PLUMBLINE_STATE_DIR": str(self.state_dir(node)),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "20",
            "RAY_health_check_period_ms": "1000",
            "RAY_TEST_NODE": str(self._temporary / node),
        }

    def stop(self) -> None:
        """End every process of the cluster and delete its temporary folder."""
        for node in list(self.sessions):
            self.kill(node)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self, node: str, arguments: list[str], cpus: int) -> None:
        first = free_range(PORTS_PER_NODE)
        output = self.folder / f"{node}.log"
        self.folder.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as stream:
            start = subprocess.Popen(
                [
                    *(ray_command(), "start", *arguments, f"--num-cpus={cpus}", "--num-gpus=0"),
                    *(f"--resources={json.dumps({f'node_{node}': 1})}", f"--temp-dir={self._temporary / node}"),
                    *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false"),
                    *(f"--min-worker-port={first}", f"--max-worker-port={first + PORTS_PER_NODE - 1}"),
                ],
                env=self.environment(node),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.sessions[node] = start.pid
            code = start.wait(timeout=START_SECONDS)
        assert code == 0, output.read_text()[-3000:]

    def _pids(self, node: str) -> list[int]:
        """Find the processes of a node by the session of its start, or by a variable that they inherit.

        Ray's agents write their title over their environment, and its jobs run in separate sessions.
        """
        mark = f"RAY_TEST_NODE={self._temporary / node}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    state, _parent, _group, session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                    ours = int(session) == self.sessions.get(node) or mark in environment_of(entry)
                    if state != "Z" and ours:
                        found.append(int(entry.name))
        return found

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(self.get("/api/version"))
        return False


def environment_of(entry: Path) -> list[bytes]:
    return (entry / "environ").read_bytes().split(b"\0")


def ray_command() -> str:
    return str(Path(sys.executable).with_name("ray"))


def wait_for(ready: Any, what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return found


def free_ports(number: int) -> list[int]:
    """Return ports below those that the kernel gives out, so that no client takes one before it is used."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < number:
            port = 20_000 + secrets.randbelow(10_000)
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("0.0.0.0", port))
                found.append(port)
        return found


def free_range(number: int) -> int:
    """Return the first of a range of ports for the workers of a node."""
    return 10_000 + secrets.randbelow(10_000 // number) * number
