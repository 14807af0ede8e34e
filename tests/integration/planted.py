"""Distinctive secrets for every secret setting, and a search for them in everything that a run leaves behind.

A secret counts as found in plain text and in base64, at any position, as HTTP headers carry it.
"""

import base64
import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from embedded_world import ROOT, shapes_project

POLL_SECONDS = 0.1
NUM_PAIRS, NUM_PROMPTS = 60, 8
SQLITE = b"SQLite format 3\0"
PARQUET = b"PAR1"

SECRETS = {
    name: f"planted-{name.lower()}-7f3a9c"
    for name in (
        "PLUMBLINE_ANNOTATOR_SALT",
        "PLUMBLINE_SIGNING_KEY_PASSWORD",
        "PLUMBLINE_AIRFLOW_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "HF_TOKEN",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "SMTP_PASSWORD",
        "WEBHOOK_PASSWORD",
        "WEBHOOK_TOKEN",
        "TRACKING_DATABASE_PASSWORD",
    )
} | {"AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(b"planted-fernet-key-0123456789-32").decode()}
"""Setting to its planted value. The last but one of the names are parts of an address or of a connection."""
PARTS = ("SMTP_PASSWORD", "WEBHOOK_PASSWORD", "WEBHOOK_TOKEN", "TRACKING_DATABASE_PASSWORD")


def secret_environment(chat: str, post: str) -> dict[str, str]:
    """Every secret setting as an environment variable, with connections to a webhook and a mail server."""
    host, _, port = chat.removeprefix("http://").partition(":")
    webhook = {
        "conn_type": "http",
        "host": f"http://{host}",
        "port": int(port),
        "login": "plumbline",
        "password": SECRETS["WEBHOOK_PASSWORD"],
        "extra": {"X-Token": SECRETS["WEBHOOK_TOKEN"]},
    }
    login = f"plumbline:{quote(SECRETS['SMTP_PASSWORD'])}@"
    return {name: value for name, value in SECRETS.items() if name not in PARTS} | {
        "PLUMBLINE_AIRFLOW_USER": "plumbline",
        "MLFLOW_TRACKING_USERNAME": "plumbline",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AIRFLOW_CONN_CHAT": json.dumps(webhook),
        "AIRFLOW_CONN_POST": post.replace("smtp://", f"smtp://{login}"),
    }


def leaks(texts: Iterable[tuple[str, bytes]], secrets: Mapping[str, str] = SECRETS) -> list[str]:
    """`SETTING in PLACE` for each secret that a text contains, sorted."""
    wanted = {name: tuple(_traces(value.encode())) for name, value in secrets.items()}
    found = {
        f"{name} in {place}"
        for place, text in texts
        for name, traces in wanted.items()
        if any(trace in text for trace in traces)
    }
    return sorted(found)


def _traces(secret: bytes) -> Iterator[bytes]:
    """The secret as it is, and as it looks inside base64 with any number of bytes before it."""
    yield secret
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        coded = base64.b64encode(b"\0" * before + secret)
        yield coded[skipped : (before + len(secret)) * 8 // 6]


def texts_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file below a folder; of a database and a table also its decoded rows."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            yield str(path.relative_to(folder)), content
            if content.startswith(SQLITE):
                with closing(sqlite3.connect(path)) as database:
                    yield f"rows of {path.relative_to(folder)}", "\n".join(database.iterdump()).encode()
            if content.startswith(PARQUET):
                yield f"rows of {path.relative_to(folder)}", _strings(pq.read_table(path))


def _strings(table: pa.Table) -> bytes:
    columns = [table[name] for name in table.column_names if not _is_bytes(table.schema.field(name).type)]
    return "\n".join(str(value) for column in columns for value in column.to_pylist()).encode()


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class ProcessList:
    """Command lines of a run's processes, and environments of its alignment jobs, read again and again meanwhile.

    A process belongs to the run when its environment names the run's state folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self.seen: dict[str, bytes] = {}
        self.commands: set[str] = set()
        self._mark = str(state_dir).encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    self._read(entry)

    def _read(self, entry: Path) -> None:
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            return  # it ended
        if self._mark in environment and command:
            words = command.replace(b"\0", b" ").decode(errors="replace").strip()
            self.commands.add(words)
            self.seen[f"command line of {words[:120]}"] = command
            if "alignment.jobs" in words:
                self.seen[f"environment of {words[:120]}"] = environment


def rows_of_postgres(address: str) -> Iterator[tuple[str, bytes]]:
    """Table and rows, as JSON, of every table of a PostgreSQL database."""
    import psycopg2

    with closing(psycopg2.connect(address.replace("+psycopg2", ""))) as connection, connection.cursor() as cursor:
        cursor.execute("select tablename from pg_tables where schemaname = 'public' order by 1")
        for (table,) in cursor.fetchall():
            cursor.execute(f"select coalesce(json_agg(t)::text, '') from \"{table}\" t")
            [(rows,)] = cursor.fetchall()
            yield f"table {table}", rows.encode()


# --- a run that uses them -----------------------------------------------------------------------------------------


def small_project(folder: Path) -> str:
    """The shapes project with few pairs and prompts, and a training of two steps."""
    (folder / "pairs").mkdir()
    shard = sorted((ROOT / "examples/shapes/pairs").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(shard).slice(0, NUM_PAIRS), folder / "pairs" / shard.name)
    prompts = (ROOT / "examples/shapes/prompts.tsv").read_text().splitlines()
    (folder / "prompts.tsv").write_text("\n".join(prompts[: NUM_PROMPTS + 1]) + "\n")
    text = shapes_project()
    changes = {
        f"{ROOT}/examples/shapes/pairs": str(folder / "pairs"),
        f"{ROOT}/examples/shapes/prompts.tsv": str(folder / "prompts.tsv"),
        'recipe = "diffusion_dpo_shapes"': 'recipe = "diffusion_dpo_shapes"\noverrides = ["steps=2", "global_batch=8"]',
        "minimum_prompts = 100": f"minimum_prompts = {NUM_PROMPTS}",
        "sampler = { steps = 20": "sampler = { steps = 2",
        "num_processes = 2\nmicro_batch = 16": "num_processes = 1\nmicro_batch = 8",
        "num_processes = 2\nmicro_batch = 64": "num_processes = 1\nmicro_batch = 64",
        "sample_every_steps = 50": "sample_every_steps = 2",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def make_signing_key(folder: Path) -> dict[str, str]:
    """Settings of an encrypted signing key and its public half."""
    key, public = folder / "signing.pem", folder / "signing.pub"
    password = SECRETS["PLUMBLINE_SIGNING_KEY_PASSWORD"]
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256"]
    known = {**os.environ, "KEY_PASSWORD": password}
    subprocess.run([*make, "-pass", "env:KEY_PASSWORD", "-out", str(key)], env=known, check=True, capture_output=True)
    show = ["openssl", "pkey", "-in", str(key), "-passin", "env:KEY_PASSWORD", "-pubout", "-out", str(public)]
    subprocess.run(show, env=known, check=True, capture_output=True)
    key.chmod(0o600)
    return {"PLUMBLINE_SIGNING_KEY": str(key), "PLUMBLINE_VERIFY_KEY": str(public)}
