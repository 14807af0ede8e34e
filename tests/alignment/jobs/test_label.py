"""The label job on a tiny snapshot: proxy vote, label model, resumed, and given input that cannot be labelled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.jobs import LABEL_REPORT_FILE, JobFailure, Placement
from alignment.contracts.judges import Judge
from alignment.contracts.labelling import LabelModel, LabelReport, LabelSpec, ProxyVoting
from alignment.data.pairs import TrainingPairs
from alignment.files.durable import content_digest
from alignment.files.images import rgb_image
from alignment.jobs import label
from alignment.jobs.outcome import JobPaths, exit_code
from alignment.rewards.interface import load_scorer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def inputs(tiny_snapshot_dir: Path, tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for source in (tiny_snapshot_dir, tiny_clip_dir):
        shutil.copytree(source, folder / content_digest(source))
    return folder


@pytest.fixture
def make_spec(
    tiny_snapshot_dir: Path, tiny_clip_dir: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> Callable[..., LabelSpec]:
    """One judge, a tiny CLIP; `changes` replace fields."""

    def make(**changes: Any) -> LabelSpec:
        plain = make_snapshot(
            uri="",
            content_digest=content_digest(tiny_snapshot_dir),
            num_pairs={"train": 30, "calibration": 10, "test": 5},
            num_ties=9,
            num_prompts=4,
            num_unpaired={"train": 2, "calibration": 1, "test": 0},
            sources=("plain",),
        )
        judge = Judge(
            name="tiny", scorer=ClipPreference(), weights_digest=content_digest(tiny_clip_dir), trained_on=("panel",)
        )
        fields: dict[str, Any] = {
            "snapshot": plain,
            "judges": (judge,),
            "method": ProxyVoting(),
            "relabelled_sources": ("plain",),
        }
        return LabelSpec(**{**fields, **changes})

    return make


def run(inputs: Path, spec: LabelSpec, out: Path) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / "spec.json").write_text(spec.model_dump_json())
    (out.parent / "placement.json").write_text(Placement(micro_batch=6).model_dump_json())
    threads = torch.get_num_threads()
    try:
        return exit_code(label.main, JobPaths(out.parent / "spec.json", out.parent / "placement.json", inputs, out))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def test_a_proxy_vote_orders_every_pair_by_the_judge(
    inputs: Path, make_spec: Callable[..., LabelSpec], tiny_clip_dir: Path, tmp_path: Path
) -> None:
    spec = make_spec()
    assert run(inputs, spec, tmp_path / "out") == 0
    result = DatasetSnapshot.model_validate_json((tmp_path / "out" / "result.json").read_text())
    assert result.num_unpaired is None, "it has pairs alone"
    assert result.labelled_by == tuple(sorted(spec.judges[0].training_sources))
    assert set(result.training_sources) == {"plain", *spec.judges[0].training_sources}
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert len(rows) == 30
    judge = load_scorer(spec.judges[0], tiny_clip_dir, torch.device("cpu"))
    for row in rows:
        images = [rgb_image(row[f"image_{side}"], "pair") for side in ("chosen", "rejected")]
        chosen, rejected = judge.score(images, [row["prompt"]] * 2).tolist()
        assert chosen == rejected if row["is_tie"] else chosen > rejected
    plain = pq.read_table(inputs / spec.snapshot.content_digest / "train.parquet").to_pylist()
    turned = [new["image_chosen"] != old["image_chosen"] for new, old in zip(rows, plain, strict=True)]
    assert 0 < sum(turned) < 30
    assert result.num_ties == 3 + sum(row["is_tie"] for row in rows)  # 2 + 1 human ties are held out
    assert len(TrainingPairs(tmp_path / "out")) == 30 - sum(row["is_tie"] for row in rows)


def test_a_label_model_writes_labels_and_a_report_and_resumes(
    inputs: Path, make_spec: Callable[..., LabelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LabelModel(heuristics=("brightness",), human_labels=10, minimum_human_labels=5)
    spec = make_spec(method=method, human_sources=("plain",))
    monkeypatch.setattr(label, "SHARD_ITEMS", 16)
    scored: list[int] = []

    def counted(*arguments: Any) -> Any:
        scored.append(len(arguments[0]))
        if sum(scored) > 16 and len(scored) < 8:
            raise KeyboardInterrupt
        return honest(*arguments)

    honest = label._score_batch
    monkeypatch.setattr(label, "_score_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, spec, tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.setattr(label, "_score_batch", honest)
    first_shard = (tmp_path / "out" / "scores" / "00000.parquet").stat().st_mtime_ns
    assert run(inputs, spec, tmp_path / "out") == 0
    assert (tmp_path / "out" / "scores" / "00000.parquet").stat().st_mtime_ns == first_shard
    report = LabelReport.model_validate_json((tmp_path / "out" / LABEL_REPORT_FILE).read_text())
    assert report.num_human_labels == 10
    assert report.num_labelled + report.num_below_confidence + report.num_without_opinion == 20
    assert {line.num_pairs for line in report.accuracies} == {8 + 4}
    assert run(inputs, spec, tmp_path / "again") == 0
    whole, resumed = (content_digest(tmp_path / name) for name in ("again", "out"))
    assert whole == resumed


def test_too_few_human_labels_fail_before_anything_is_scored(
    inputs: Path, make_spec: Callable[..., LabelSpec], tmp_path: Path
) -> None:
    spec = make_spec(method=LabelModel(heuristics=("brightness",)), human_sources=("plain",))
    assert run(inputs, spec, tmp_path / "out") == 2
    failure = JobFailure.model_validate_json((tmp_path / "out" / "failure.json").read_text())
    assert failure.kind == "bad_input"
    assert "24 human labels in the training split and needs 50" in failure.message
    assert not list((tmp_path / "out").glob("scores/*.parquet"))


def test_a_judge_that_scores_nan_ends_in_bad_input_and_no_snapshot(
    inputs: Path, make_spec: Callable[..., LabelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        digest = "b"

        def score(self, images_B: Any, prompts: Any) -> torch.Tensor:
            return torch.full((len(images_B),), float("nan"))

    monkeypatch.setattr(label, "load_scorer", lambda *_: Broken())
    assert run(inputs, make_spec(), tmp_path / "out") == 2
    failure = json.loads((tmp_path / "out" / "failure.json").read_text())
    assert "Labeler 'tiny' gave scores that are not finite on" in failure["message"]
    assert not (tmp_path / "out" / "train.parquet").exists()
