"""The whole loop with everything on an S3 server, and each stage on another host.

Every stage runs in separate processes with a state folder and a separate project folder, which are deleted before the
next stage begins. Only the store and the tracking server remain, so whatever a stage needs from an earlier one went
through them. Two servers: moto's over TLS, and LocalBucket.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded_world import MARKS, ROOT, processes_of
from s3_servers import KEYS, Recorded, own_certificate, plain_client, serve_localbucket, serve_moto

PLUMBLINE = Path(sys.executable).parent / "plumbline"
pytestmark = [*MARKS, pytest.mark.timeout(900)]

COMMAND_SECONDS = 420
START_SECONDS = 150
NUM_PROMPTS = 200
WEIGHTS: list[str] = []
"""Digests of the weights that the tests trained."""
WORLD = "s3://world/shapes"
STORE = "s3://plumbline/store"

PROJECT = f"""
name = "shapes"

[base]
uri = "{WORLD}/base"
licence = "Apache-2.0"
backbone = {{ name = "stable_diffusion", resolution = 64 }}

[[sources]]
name = "shapes_pairs"
kind = "pick_a_pic"
uri = "{WORLD}/pairs"
licence = "CC0-1.0"

[snapshot]
calibration_share = 0.3
test_share = 0.1

[[train]]
recipe = "diffusion_dpo_shapes"
overrides = ["global_batch=12", "steps=160", "optimiser.learning_rate=2e-5"]

[evaluation]
prompts = "{WORLD}/prompts.tsv"
seeds = [0]
sampler = {{ steps = 10, guidance_scale = 3.0 }}

[[evaluation.judges]]
name = "taste_a"
uri = "{WORLD}/judges/taste_a"
scorer = {{ kind = "clip_preference" }}
trained_on = ["shapes_panel_a"]

[[evaluation.guards]]
name = "caption_match"
uri = "{WORLD}/judges/caption_match"
scorer = {{ kind = "clip_score" }}

[gate]
minimum_prompts = {NUM_PROMPTS}
required_judges = 1
calibration_floor = 0.5
minimum_calibration_pairs = 100
maximum_calibration_age_days = 0

[gate.guards]
caption_match = {{ margin = 3.0 }}

[gate.slices]
action = "warn"

[gate.power]
required = 0

[placement.train]
num_processes = 1

[placement.evaluate]
num_processes = 1
"""


@dataclass(frozen=True)
class Cluster:
    """A store, the shapes world in another bucket of its server, and a tracking server: all that hosts share."""

    environment: dict[str, str]
    client: Any
    folder: Path

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The keys of a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def num_bytes(self, uri: str) -> int:
        """Size of a published folder, by its manifest."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        manifest = json.loads(self.client.get_object(Bucket=bucket, Key=f"{key}/manifest.json")["Body"].read())
        return sum(entry["num_bytes"] for entry in manifest["files"].values())

    @contextmanager
    def host(self, name: str, cache_gib: float = 1.0) -> Iterator["Host"]:
        """A host: its folders exist within the block."""
        folder = self.folder / name
        (folder / "projects").mkdir(parents=True)
        (folder / "projects" / "shapes.toml").write_text(PROJECT)
        own = {
            "PLUMBLINE_STATE_DIR": str(folder / "state"),
            "PLUMBLINE_PROJECTS_DIR": str(folder / "projects"),
            "PLUMBLINE_CACHE_GIB": repr(cache_gib),
        }
        yield Host(folder, self.environment | own)
        assert processes_of(folder) == {}
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Host:
    """The folders of one host."""

    folder: Path
    environment: dict[str, str]

    def plumbline(self, command: str, *, expect: int = 0) -> Any:
        """Run a command on the project; the JSON it prints."""
        done = subprocess.run(
            [str(PLUMBLINE), command, str(self.folder / "projects" / "shapes.toml"), "--json"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return json.loads(done.stdout)

    def jobs(self) -> set[str]:
        """Kinds of the jobs that ran on this host."""
        return {path.name.split("-")[1] for path in (self.folder / "state" / "jobs").glob("*-*")}

    def inputs_bytes(self) -> int:
        """Space that the inputs of jobs take."""
        files = (self.folder / "state" / "inputs").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())

    def log(self, kind: str) -> str:
        """The log of the one job of a kind."""
        (path,) = (self.folder / "state" / "jobs").glob(f"*-{kind}-*/attempt-1.log")
        return path.read_text()


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """Run MLflow's server; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_until_healthy(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"MLflow did not answer; exit code {server.poll()}")


@contextmanager
def cluster(folder: Path, endpoint: str, authority: Path | None = None) -> Iterator[Cluster]:
    """Make the buckets, put the world into one, and start the tracking server."""
    client = plain_client(endpoint, ca=authority)
    for bucket in ("world", "plumbline"):
        client.create_bucket(Bucket=bucket)
    source = ROOT / "examples" / "shapes"
    for part in ("base", "pairs", "judges"):
        for path in sorted((source / part).rglob("*")):
            if path.is_file():
                client.upload_file(str(path), "world", f"shapes/{path.relative_to(source).as_posix()}")
    prompts = (source / "prompts.tsv").read_bytes().splitlines(keepends=True)[: NUM_PROMPTS + 1]
    client.put_object(Bucket="world", Key="shapes/prompts.tsv", Body=b"".join(prompts))
    with tracking_server(folder / "mlflow") as url:
        dropped = {"AIRFLOW_HOME", "PLUMBLINE_STATE_DIR", "AWS_CA_BUNDLE"}
        own = KEYS | {
            "AWS_ENDPOINT_URL": endpoint,
            "PLUMBLINE_STORE_URI": STORE,
            "MLFLOW_TRACKING_URI": url,
            "OMP_NUM_THREADS": "1",
            **({"AWS_CA_BUNDLE": str(authority)} if authority else {}),
        }
        yield Cluster({k: v for k, v in os.environ.items() if k not in dropped} | own, client, folder)


def turn_the_loop(shared: Cluster, *, streamed: bool) -> str:
    """Ingest, encode, train and release on one host each; read the result on another. The digest of the weights.

    With `streamed`, the features take at most a tenth of their size on the training host.
    """
    with shared.host("ingesting") as host:
        snapshot = host.plumbline("snapshot")
        assert host.jobs() == set()
    with shared.host("encoding") as host:
        (cache,) = host.plumbline("encode")
        assert host.jobs() == {"encode"}
    size = shared.num_bytes(cache["uri"])
    with shared.host("training", size / 5 / 1024**3 if streamed else 1.0) as host:
        (result,) = host.plumbline("train")
        assert host.jobs() == {"train"}
        check_streaming(host.log("train"), size, streamed=streamed)
        assert (host.inputs_bytes() < size / 10) is streamed
    with shared.host("releasing") as host:
        (promotion,) = host.plumbline("run")
        assert host.jobs() & {"encode", "train"} == set()
    with shared.host("watching") as host:
        status = host.plumbline("status")
        (again,) = host.plumbline("run")
        assert host.jobs() == set()

    assert [found["uri"].startswith(STORE) for found in (snapshot, cache, result)] == [True] * 3
    assert (promotion["to_version"], promotion["moved"], again["moved"]) == (1, True, False)
    assert str(status["champion"]["version"]) == "1"
    assert len([key for key in shared.keys("plumbline", "store/ledger/") if key.endswith(".json")]) == 1
    return str(result["weights_digest"])


def check_streaming(log: str, size: int, *, streamed: bool) -> None:
    """The worker streamed the features within a tenth of their size, or not at all."""
    found = re.search(r"at most ([\d.]+) MiB were on the disk", log)
    assert (found is not None) is streamed
    assert found is None or 0 < float(found[1]) * 1024**2 <= size / 10 + 0.05 * 1024**2


def test_the_loop_over_tls_on_motos_server(tmp_path: Path) -> None:
    authority, certificate, key = own_certificate(tmp_path / "tls")
    with (
        serve_moto((certificate, key)) as server,
        cluster(tmp_path, server.endpoint, authority) as shared,
    ):
        fill_with_other_keys(shared.client)
        server.requests.clear()
        WEIGHTS.append(turn_the_loop(shared, streamed=True))
        check_listings(server)


def fill_with_other_keys(client: Any) -> None:
    """Put objects of another use into the store's bucket, which no listing of ours may meet."""
    for number in range(50):
        client.put_object(Bucket="plumbline", Key=f"store/other/{number:05d}", Body=b"")


def check_listings(server: Recorded) -> None:
    """Every listing is of a folder that holds entries of one kind; never of the store, nor of what jobs wrote."""
    prefixes = server.listings()
    kinds = ("ledger", "raw/index", "evaluations/decisions", "jobs", "served", "started", "compute", "data_reports")
    kinds += ("withdrawals",)
    allowed = ("shapes/base/", "shapes/pairs/", "shapes/judges/", *(f"store/{kind}/" for kind in kinds))
    assert [prefix for prefix in prefixes if not prefix.startswith(allowed)] == []
    assert 0 < len(prefixes) < 90, (len(prefixes), prefixes)


def test_the_loop_on_another_server(tmp_path: Path) -> None:
    with serve_localbucket(tmp_path / "data") as endpoint, cluster(tmp_path, endpoint) as shared:
        WEIGHTS.append(turn_the_loop(shared, streamed=False))
    # The same weights from streamed and from complete features, if both tests ran.
    assert len(set(WEIGHTS)) == 1
