"""Consent and deletion requests from the command line, on the pairs of the shapes project and a real registry."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.commands import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on a state folder of this test; return its exit code, its JSON and stderr."""
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PLUMBLINE_PROJECTS_DIR", str(SHAPES.parent))

    def call(*words: str) -> tuple[int, Any, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return call


def test_a_person_is_withdrawn_purged_and_taken_back(run: Any, tmp_path: Path) -> None:
    code, before, _ = run("snapshot", str(SHAPES))
    assert code == 0
    rows = pq.read_table(Path(before["uri"].removeprefix("file://")) / "train.parquet").to_pylist()
    who = rows[0]["annotator_id"]
    of_person = sum(row["annotator_id"] == who for row in rows)
    assert 0 < of_person < len(rows)

    code, record, _ = run("withdraw", "--annotator-hash", who, "--reason", "request 17")
    assert (code, record["number"], record["withdrawal"]["kind"]) == (0, 1, "annotator")
    code, _, err = run("withdraw", "--annotator-hash", who, "--reason", "again")
    assert (code, f"Annotator {who} is withdrawn already" in err) == (2, True)
    assert [entry["reason"] for entry in run("withdraw", "--list")[1]] == ["request 17"]

    _, after, _ = run("snapshot", str(SHAPES))
    assert len(rows) - after["num_pairs"]["train"] == of_person
    _, changes, _ = run("diff", str(SHAPES))
    assert changes["num_left"] >= of_person
    assert changes["num_added"] == 0

    code, found, err = run("purge")
    assert (code, found["deleted"]) == (0, False)
    assert before["uri"] in {item["uri"] for item in found["items"]}
    assert Path(before["uri"].removeprefix("file://")).is_dir()
    code, done, _ = run("purge", "--yes")
    assert (code, done["items"], done["snapshots"]) == (0, found["items"], [before["content_digest"]])
    assert not [path for path in Path(before["uri"].removeprefix("file://")).rglob("*") if path.is_file()]
    assert run("purge")[1]["items"] == []
    _, again, _ = run("snapshot", str(SHAPES))
    assert again["content_digest"] == after["content_digest"]
    _, checked, _ = run("validate", str(SHAPES))
    counts = checked["rows"]
    assert counts["withdrawn"] >= of_person
    assert counts["pairs_in"] == sum(counts[name] for name in ("accepted", "quarantined", "duplicates", "withdrawn"))

    assert run("withdraw", "--annotator-hash", who, "--revoke", "--reason", "consent")[0] == 0
    assert run("snapshot", str(SHAPES))[1]["content_digest"] == before["content_digest"]
    code, _, err = run("withdraw", "--annotator-hash", who, "--revoke", "--reason", "consent")
    assert (code, "nothing to revoke" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exactly one of --annotator, --annotator-hash, --pair, --image and --source, not none"),
        (["--pair", "a" * 64, "--image", "b" * 64], "not --pair, --image"),
        (["--pair", "abc"], "--pair is 'abc'. It must have 64 hexadecimal digits"),
        (["--annotator-hash", "g" * 32], "must have 32 hexadecimal digits"),
        (["--source", "shapes"], "nothing was ingested into this store yet"),
        (["--image", "b" * 64, "--reason", " "], "needs --reason TEXT"),
    ],
)
def test_a_withdrawal_that_is_not_clear_is_refused_and_nothing_recorded(
    run: Any, words: list[str], message: str, tmp_path: Path
) -> None:
    words = words if "--reason" in words else [*words, "--reason", "r"]
    code, _, err = run("withdraw", *words)
    assert (code, message in " ".join(err.split())) == (2, True), err
    assert run("withdraw", "--list")[1] == []


def test_a_source_is_named_as_it_was_ingested(run: Any) -> None:
    assert run("ingest", str(SHAPES))[0] == run("validate", str(SHAPES))[0] == 0
    code, _, err = run("withdraw", "--source", "shapes_pair", "--reason", "r")
    assert (code, "Did you mean 'shapes" in err) == (2, True), err
    name = err.split("Did you mean '")[1].split("'")[0]
    code, _, err = run("withdraw", "--source", f"{name}:nowhere.parquet", "--reason", "r")
    assert (code, "has read a shard of" in err) == (2, True), err
    code, record, _ = run("withdraw", "--source", name, "--reason", "licence ended")
    assert (code, record["withdrawal"]["shard"]) == (0, "")
    code, _, err = run("snapshot", str(SHAPES))
    assert (code, "No pair is left to train on" in err) == (2, True)


def test_the_lineage_of_a_pair_or_snapshot_names_the_versions_trained_on_it(
    run: Any, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.tracking import runs

    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.settings.tracking_uri)
    _, built, _ = run("snapshot", str(SHAPES))
    pair = pq.read_table(Path(built["uri"].removeprefix("file://")) / "train.parquet")["pair_id"][0].as_py()
    shapes = dataclasses.replace(world, project=world.project.model_copy(update={"name": "shapes"}))
    version = shapes.register("a").version
    with runs.connect(world.settings.tracking_uri) as client:
        for name, value in (("snapshot.digest", built["content_digest"]), ("snapshot.uri", built["uri"])):
            client.set_model_version_tag("shapes", str(version), name, value)
        client.set_registered_model_alias("shapes", "champion", str(version))
    expected = {"version": version, "snapshot_digest": built["content_digest"]}
    for words, splits in ((["--pair", pair], ["train"]), (["--snapshot", "last"], [])):
        code, found, _ = run("lineage", str(SHAPES), *words)
        assert (code, found["snapshots"]) == (0, [built["content_digest"]])
        (model,) = found["models"]
        assert {**model, **expected} == model
        assert ("champion" in model["aliases"], model["splits"]) == (True, splits)
    assert run("lineage", str(SHAPES), "--pair", "f" * 64)[1]["models"] == []
    for words in ([], ["--pair", pair, "--snapshot", "last"], ["--pair", "x"]):
        code, _, err = run("lineage", str(SHAPES), *words)
        assert code == 2
        assert "--pair" in err
    run("withdraw", "--pair", pair, "--reason", "r")
    run("snapshot", str(SHAPES))
    assert run("purge", "--yes")[0] == 0
    code, found, _ = run("lineage", str(SHAPES), "--pair", pair)
    assert (found["snapshots"], found["models"][0]["splits"]) == ([built["content_digest"]], []), (
        "known after the purge"
    )
