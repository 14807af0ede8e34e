"""Unfinished work on two nodes without a common folder: saved here, continued there."""

import json
from pathlib import Path

import pytest

from pipelines.dispatch.cluster.kept_work import KeptWork
from pipelines.store.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def kept_on(store: Store, node: Path, rank: int = 0) -> KeptWork:
    node.mkdir(exist_ok=True)
    return KeptWork(store, store.uri("attempts", "job", "work"), node, rank=rank)


def write(node: Path, name: str, text: str) -> None:
    path = node / name
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def read(node: Path) -> dict[str, str]:
    return {p.relative_to(node).as_posix(): p.read_text() for p in sorted(node.rglob("*")) if p.is_file()}


def test_another_node_gets_the_work_and_nothing_else(store: Store, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    kept = kept_on(store, here)
    kept.restore()
    for name in ("out/checkpoints/step_000004/weights", "out/metrics.jsonl", "tracking_cursor.json"):
        write(here, name, name)
    for name in ("spec.json", "out/progress.json", "out/failure.json", "out/.weights.draft/part", "inputs/base"):
        write(here, name, "of this node")
    assert kept.save()
    write(there, "out/stale", "from an attempt long ago")
    other = kept_on(store, there)
    other.gather()
    other.restore()
    assert set(read(there)) == {"out/checkpoints/step_000004/weights", "out/metrics.jsonl", "tracking_cursor.json"}


def test_only_changes_are_uploaded_and_deleted_files_go(store: Store, tmp_path: Path) -> None:
    here = tmp_path / "here"
    kept = kept_on(store, here)
    write(here, "out/a", "first")
    write(here, "out/b", "first")
    assert kept.save()
    assert not kept.save()
    write(here, "out/b", "second")
    (here / "out/a").unlink()
    assert kept.save()
    uploaded = [p for p in (tmp_path / "store").rglob("*") if p.parent.name == "out"]
    assert [path.read_text() for path in uploaded] == ["second"]


def test_a_growing_file_is_saved_with_a_checkpoint_or_at_the_end(store: Store, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    kept = kept_on(store, here)
    write(here, "out/metrics.jsonl", "1\n")
    assert not kept.save()
    write(here, "out/checkpoints/step_000001/weights", "1")
    assert kept.save()
    write(here, "out/metrics.jsonl", "1\n2\n")
    assert not kept.save()
    assert kept.save(complete=True)
    kept_on(store, there).restore()
    assert read(there)["out/metrics.jsonl"] == "1\n2\n"


def test_a_later_write_to_a_growing_file_does_not_reach_what_was_saved(store: Store, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    kept = kept_on(store, here)
    write(here, "out/metrics.jsonl", "1\n")
    write(here, "out/done", "")
    kept.save()
    with (here / "out/metrics.jsonl").open("a") as stream:
        stream.write("2\n")
    kept_on(store, there).restore()
    assert read(there)["out/metrics.jsonl"] == "1\n"


def test_the_work_of_all_ranks_is_gathered_for_fewer(store: Store, tmp_path: Path) -> None:
    nodes = [tmp_path / "0", tmp_path / "1"]
    for rank, node in enumerate(nodes):
        kept = kept_on(store, node, rank)
        write(node, f"out/shard-{rank}", str(rank))
        kept.save()
    alone = kept_on(store, tmp_path / "2")
    alone.gather()
    alone.restore()
    assert read(tmp_path / "2") == {"out/shard-0": "0", "out/shard-1": "1"}
    (tmp_path / "2/out/shard-1").unlink()
    alone.save()
    last = kept_on(store, tmp_path / "3")
    last.gather()
    last.restore()
    assert read(tmp_path / "3") == {"out/shard-0": "0"}


def test_files_that_are_here_already_are_not_fetched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    kept = kept_on(store, here)
    write(here, "out/a", "bytes")
    kept.save()
    monkeypatch.setattr(store, "fetch_folder", None)
    kept_on(store, here).restore()
    assert read(here) == {"out/a": "bytes"}


def test_a_file_that_the_job_rewrites_in_place_is_not_listed_half_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    kept = kept_on(store, here)
    write(here, "out/image", "whole")
    publish = store.publish_folder

    def slow(*arguments: object) -> object:
        answer = publish(*arguments)  # type: ignore[arg-type]
        (here / "out/image").write_text("rewritten in the same file")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish_folder", slow)
        kept.save()
    kept_on(store, there).restore()
    assert read(there) == {}
    assert kept.save()
    kept_on(store, there).restore()
    assert read(there) == {"out/image": "rewritten in the same file"}


def test_finished_work_leaves_nothing(store: Store, tmp_path: Path) -> None:
    kept = kept_on(store, tmp_path / "here")
    write(tmp_path / "here", "out/a", "")
    kept.save()
    kept.delete()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_listing_is_readable_json(store: Store, tmp_path: Path) -> None:
    kept = kept_on(store, tmp_path / "here")
    write(tmp_path / "here", "out/a", "bytes")
    kept.save()
    listing = json.loads(store.read_bytes(store.uri("attempts", "job", "work", "rank-00000.json")))
    assert listing["out/a"]["num_bytes"] == 5
    assert listing["out/a"]["folder"].startswith("rank-00000/")
