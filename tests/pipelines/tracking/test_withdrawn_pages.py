"""Pages that show withdrawn pairs are deleted from a real server."""

import uuid
from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.tracking import pages, runs
from pipelines.tracking.withdrawn_pages import delete_pages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_data_reports_and_data_docs_of_withdrawn_pairs_are_deleted_and_no_other(
    tracked: Settings, tmp_path: Path
) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"
    assert delete_pages(tracked, project, snapshots=["a" * 64], shards=[]) == []
    run_id = runs.parent_run(tracked, project=project, key="k", tags={})
    (tmp_path / "index.html").write_text("a withdrawn image")
    for digest in ("a" * 64, "b" * 64):
        runs.log_artifacts(tracked, run_id, tmp_path, pages.data_report_folder(digest))
    for shard in ("one.parquet", "two.parquet"):
        runs.log_text(tracked, run_id, "a withdrawn image", pages.data_docs_artifact("prefs", shard))
    runs.log_text(tracked, run_id, "a picture", "samples/step.txt")

    deleted = delete_pages(tracked, project, snapshots=["a" * 64, "c" * 64], shards=[("prefs", "two.parquet")])
    assert deleted == [
        f"{run_id}/{pages.data_report_folder('a' * 64)}",
        f"{run_id}/{pages.data_docs_artifact('prefs', 'two.parquet')}",
    ]
    with runs.connect(tracked.tracking_uri) as client:
        left = {
            entry.path
            for folder in ("data_report", "data_docs/prefs", "samples")
            for entry in client.list_artifacts(run_id, folder)
        }
    assert left == {
        pages.data_report_folder("b" * 64),
        pages.data_docs_artifact("prefs", "one.parquet"),
        "samples/step.txt",
    }
    assert delete_pages(tracked, project, snapshots=["a" * 64], shards=[]) == []
