"""The caption job: each variant end to end, resumed, shared among processes, trained on, and given bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from alignment.contracts.captions import CaptionSpec
from alignment.contracts.data import DatasetSnapshot, EncodeSpec, FeatureCache
from alignment.contracts.jobs import JobFailure, Placement
from alignment.data.pairs import TrainingPairs
from alignment.files.durable import content_digest
from alignment.jobs import caption, encode
from alignment.jobs.outcome import _parse_paths, exit_code

pytestmark = pytest.mark.timeout(300)


class Captions:
    """Inputs of the bench, a captioner among them, and specs that name them."""

    def __init__(self, bench: Any, captioner_dir: Path) -> None:
        self.bench = bench
        self.captioner = content_digest(captioner_dir)
        if not (bench.inputs / self.captioner).exists():
            shutil.copytree(captioner_dir, bench.inputs / self.captioner)

    def spec(self, kind: str = "dcpo_c", **changes: Any) -> CaptionSpec:
        method: dict[str, Any] = {"kind": kind}
        if kind != "dcpo_p":
            method["captioner"] = {"weights_digest": self.captioner} | changes.pop("captioner", {})
        if kind != "dcpo_c":
            method["perturbation"] = {"level": "medium"}
        snapshot = {
            "uri": "",
            "content_digest": self.bench.encode_spec.snapshot_digest,
            "num_pairs": {"train": 30, "calibration": 10, "test": 5},
            "num_ties": 9,
            "num_captioned": 0,
            "num_prompts": 4,
            "sources": ["plain"],
            "licences": ["CC0-1.0"],
            "batch_digests": ["1" * 64],
            "heldout_prompts_digest": "6" * 64,
        }
        return CaptionSpec.model_validate({"snapshot": snapshot | changes, "method": method, "shard_images": 16})

    def run(self, spec: BaseModel, out: Path, *, job: Any = caption) -> int:
        arguments = self.bench.write_job(out.parent / f"{out.name}_job", spec, Placement(), out)
        try:
            return exit_code(job.main, _parse_paths(arguments))
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.fixture
def captions(bench: Any, tiny_captioner_dir: Path) -> Captions:
    return Captions(bench, tiny_captioner_dir)


def result_of(out: Path) -> DatasetSnapshot:
    return DatasetSnapshot.model_validate_json((out / "result.json").read_text())


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def test_the_result_is_a_snapshot_with_a_caption_of_each_image(captions: Captions, tmp_path: Path) -> None:
    out, spec = tmp_path / "out", captions.spec(num_unpaired={"train": 2, "calibration": 1, "test": 0})
    assert captions.run(spec, out) == 0
    pairs = TrainingPairs(out)
    names = ["red", "green", "blue", "white"]
    kept = [index for index in range(30) if index % 5 != 4]
    seen = [(names[i % 4], names[(i + 1 + i // 4) % 4]) for i in kept]
    assert pairs.captions == [(f"a {chosen} picture", f"a {rejected} picture") for chosen, rejected in seen]
    result = result_of(out)
    files = ["spec.json", "train.parquet", "calibration.parquet", "test.parquet"]
    files += [f"captions/{number:05d}.json" for number in range(3)]
    assert result.content_digest == content_digest(out, [out / name for name in files])
    assert result.num_captioned == 24
    assert result.num_unpaired is None, "it has pairs alone"
    unchanged = {"content_digest", "num_captioned", "num_unpaired"}
    assert result.model_dump(exclude=unchanged) == spec.snapshot.model_dump(exclude=unchanged)


@pytest.mark.parametrize("kind", ["dcpo_p", "dcpo_h"])
def test_a_captioned_snapshot_is_encoded_with_its_captions(captions: Captions, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    assert captions.run(captions.spec(kind), out) == 0
    pairs = TrainingPairs(out)
    assert all(chosen != rejected for chosen, rejected in pairs.captions) or kind == "dcpo_h"
    digest = result_of(out).content_digest
    shutil.copytree(out, captions.bench.inputs / digest, dirs_exist_ok=True)
    spec = captions.bench.encode_spec.model_copy(update={"snapshot_digest": digest})
    assert isinstance(spec, EncodeSpec)
    assert captions.run(spec, tmp_path / "cache", job=encode) == 0
    cache = FeatureCache.model_validate_json((tmp_path / "cache" / "result.json").read_text())
    assert cache.num_captioned == 24
    assert cache.num_captions == len({"", *pairs.prompts, *(text for both in pairs.captions for text in both)})


def test_prompts_are_perturbed_without_a_captioner(captions: Captions, tmp_path: Path) -> None:
    assert captions.run(captions.spec("dcpo_p"), tmp_path / "out") == 0
    pairs = TrainingPairs(tmp_path / "out")
    assert [chosen for chosen, _ in pairs.captions] == pairs.prompts
    assert not (tmp_path / "out" / "captions").exists()


def test_an_interrupted_job_keeps_finished_shards(captions: Captions, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert captions.run(captions.spec(), whole) == 0
    shutil.copytree(whole, out)
    for name in ("result.json", "train.parquet", "captions/00001.json"):
        (out / name).unlink()
    kept = (out / "captions/00002.json").stat().st_mtime_ns
    assert captions.run(captions.spec(), out) == 0
    assert (out / "captions/00002.json").stat().st_mtime_ns == kept
    assert result_of(out) == result_of(whole)


def test_captions_of_another_spec_are_not_reused(captions: Captions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert captions.run(captions.spec("dcpo_p"), out) == 0
    (out / "result.json").unlink()
    assert captions.run(captions.spec(), out) == 2
    assert "another caption spec" in failure_of(out).message


def test_an_empty_caption_is_bad_input(captions: Captions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert captions.run(captions.spec(captioner={"prefix": "a red picture"}), out) == 2
    assert failure_of(out).message.startswith("The captioner returned an empty caption for")
    assert not (out / "train.parquet").exists()


def test_an_unknown_captioner_is_bad_input(captions: Captions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert captions.run(captions.spec(captioner={"weights_digest": "9" * 64}), out) == 2
    assert f"captioner with digest {'9' * 64} is not in" in failure_of(out).message


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_give_the_same_bytes(captions: Captions, tmp_path: Path, two_ranks: Any) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    assert captions.run(captions.spec(), one) == 0
    arguments = captions.bench.write_job(tmp_path / "job", captions.spec(), Placement(num_processes=2), out)
    two_ranks.run("alignment.jobs.caption", arguments)
    assert json.loads((out / "result.json").read_text()) == json.loads((one / "result.json").read_text())
