"""Intake with its source and its store on an S3 server: the same digests as on a disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.contracts.data_report import DataReport
from pipelines.intake.accepted import accepted_reports
from pipelines.intake.ingestion import ingest, list_source_shards
from pipelines.intake.quarantine import _broken_rules
from pipelines.intake.report.write import write_report
from pipelines.intake.snapshot import build_snapshot
from pipelines.intake.validation import validate
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.store.s3_client import s3_client
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

Make = Callable[..., Any]

pytestmark = [
    pytest.mark.timeout(180),
    # moto and botocore leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def on_s3(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    from moto.server import ThreadedMotoServer

    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    s3_client(endpoint, checksums=True).create_bucket(Bucket="bucket")
    yield settings.model_copy(update={"store_uri": "s3://bucket/a/store", "s3_endpoint_url": endpoint})
    server.stop()


def run(project: Project, settings: Settings) -> tuple[list[str], str, int]:
    shards = list_source_shards(Workspace(project, settings))
    reports = [validate(ingest(shard, Workspace(project, settings)), Workspace(project, settings)) for shard in shards]
    assert accepted_reports(Workspace(project, settings)) == sorted(reports, key=lambda report: report.batch_digest)
    assert _broken_rules(reports[0], settings) == [["prompt_length"]]
    snapshot = build_snapshot(reports, Workspace(project, settings))
    assert snapshot.uri.startswith(settings.store_uri)
    workspace = Workspace(project, settings)
    record = write_report(snapshot, reports, workspace)
    report = DataReport.model_validate_json(workspace.store.read_bytes(record.figures_uri))
    assert (report.figures.num_pairs, report.set_aside.num_quarantined) == (19, 1)
    assert b"data:image/jpeg;base64," in workspace.store.read_bytes(record.report_uri)
    return [report.content_digest for report in reports], snapshot.content_digest, sum(snapshot.num_pairs.values())


def test_digests_do_not_depend_on_locations(
    tiny_project: Project, settings: Settings, on_s3: Settings, tiny_pairs: Make, tiny_row: Make
) -> None:
    tiny_pairs([tiny_row(n) for n in range(9)] + [tiny_row(9, caption="")], "a shard.parquet")
    tiny_pairs([tiny_row(n) for n in range(10, 20)], "deep/b.parquet")
    folder = Path(tiny_project.sources[0].uri)
    store = Store("s3://bucket/pairs", on_s3)
    for path in folder.rglob("*.parquet"):
        store.write_bytes(f"s3://bucket/pairs/{path.relative_to(folder).as_posix()}", path.read_bytes())
    source = tiny_project.sources[0].model_copy(update={"uri": "s3://bucket/pairs/"})

    there = run(tiny_project.model_copy(update={"sources": (source,)}), on_s3)
    assert there == run(tiny_project, settings)
    assert there[2] == 19
    assert not list((settings.state_dir / "scratch").iterdir())
