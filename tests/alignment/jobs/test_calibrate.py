"""The calibrate job on ten pairs, a tiny CLIP and a copy of it."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from alignment.catalogues.rewards import ClipPreference, ClipScore
from alignment.contracts.calibration import CalibrationReport, CalibrationSpec
from alignment.contracts.jobs import CALIBRATION_SCORES_FILE, JobFailure, Placement, Progress
from alignment.contracts.judges import Judge
from alignment.files.durable import content_digest, file_sha256
from alignment.jobs import calibrate
from alignment.jobs.outcome import JobPaths, exit_code

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def root(tiny_snapshot_dir: Path, tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    for source in (tiny_snapshot_dir, tiny_clip_dir):
        shutil.copytree(source, folder / "inputs" / content_digest(source))
    return folder


def run(root: Path, spec: CalibrationSpec, out: str) -> tuple[int, Path]:
    (root / "spec.json").write_text(spec.model_dump_json())
    (root / "placement.json").write_text(Placement(micro_batch=6).model_dump_json())
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        paths = JobPaths(root / "spec.json", root / "placement.json", root / "inputs", root / out)
        return exit_code(calibrate.main, paths), root / out
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def test_every_judge_scores_every_pair(root: Path, tiny_snapshot_dir: Path, tiny_clip_dir: Path) -> None:
    weights = content_digest(tiny_clip_dir)
    judges = (
        Judge(name="taste", scorer=ClipPreference(), weights_digest=weights),
        Judge(name="match", scorer=ClipScore(), weights_digest=weights),
    )
    spec = CalibrationSpec(judges=judges, snapshot_digest=content_digest(tiny_snapshot_dir), confidence=0.9)
    code, out = run(root, spec, "out")
    assert code == 0
    report = CalibrationReport.model_validate_json((out / "result.json").read_text())
    assert report.spec == spec
    assert report.scores_digest == file_sha256(out / CALIBRATION_SCORES_FILE)
    assert [own.judge for own in report.judges] == list(judges)
    assert report.problems == ()
    table = pq.read_table(out / CALIBRATION_SCORES_FILE).to_pylist()
    assert len(table) == 20
    for own in report.judges:
        rows = [row for row in table if row["judge"] == own.judge.name and not row["is_tie"]]
        right = sum(0.5 + 0.5 * ((d > 0) - (d < 0)) for d in (r["score_chosen"] - r["score_rejected"] for r in rows))
        assert (own.overall.num_pairs, own.overall.num_human_ties) == (8, 2)
        assert own.overall.accuracy == pytest.approx(right / 8)
        assert {(part.by, part.name) for part in own.slices} == {("source", "plain"), ("generators", "unknown")}
        assert own.newest_pair_at is None
    # Several annotator names, but no comparison that two of them made.
    assert report.reliability.num_shared_pairs == 0
    progress = Progress.model_validate_json((out / "progress.json").read_text())
    assert (progress.done, progress.total, progress.unit) == (20, 20, "images")


def test_a_missing_snapshot_is_bad_input(root: Path, tiny_clip_dir: Path) -> None:
    judge = Judge(name="taste", scorer=ClipPreference(), weights_digest=content_digest(tiny_clip_dir))
    code, out = run(root, CalibrationSpec(judges=(judge,), snapshot_digest="9" * 64), "none")
    assert code == 2
    failure = JobFailure.model_validate_json((out / "failure.json").read_text())
    assert "snapshot with digest 9" in failure.message
    assert not (out / "result.json").exists()
