"""The coverage job on a tiny Stable Diffusion and a tiny judge."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference, ImageStatistic
from alignment.contracts.coverage import CoverageReport, CoverageSpec
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.contracts.jobs import JobFailure, Placement
from alignment.contracts.judges import Judge
from alignment.contracts.values import folder_digest
from alignment.files.durable import content_digest, file_sha256
from alignment.jobs import coverage
from alignment.jobs.outcome import JobPaths, exit_code

pytestmark = pytest.mark.timeout(300)
PROMPTS = "prompt\tcategory\n" + "".join(f"a plain {c} picture\t{c}\n" for c in ("red", "green", "blue", "white"))
Run = Callable[..., int]


@pytest.fixture(scope="module")
def inputs(tiny_sd_dir: Path, tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("inputs")
    unet = UNet2DConditionModel.from_pretrained(tiny_sd_dir / "unet", use_safetensors=True)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.mul_(1.1)
    unet.save_pretrained(folder / ("c" * 64) / "unet")
    for source in (tiny_sd_dir, tiny_clip_dir):
        shutil.copytree(source, folder / content_digest(source))
    (folder / hashlib.sha256(PROMPTS.encode()).hexdigest()).write_text(PROMPTS)
    return folder


@pytest.fixture(scope="module")
def spec(tiny_sd_dir: Path, tiny_clip_dir: Path) -> CoverageSpec:
    base_digest = content_digest(tiny_sd_dir)
    return CoverageSpec(
        candidate=ModelRef(kind="full", weights_digest="c" * 64),
        champion=ModelRef(kind="base", weights_digest=base_digest),
        base_digest=base_digest,
        backbone=StableDiffusion(resolution=64),
        prompts_digest=hashlib.sha256(PROMPTS.encode()).hexdigest(),
        num_prompts=2,
        seeds=(0, 1, 2),
        sampler=Sampler(steps=2, guidance_scale=1.0),
        judge=Judge(name="taste", scorer=ClipPreference(), weights_digest=content_digest(tiny_clip_dir)),
        bar=0.5,
    )


def run(inputs: Path, out: Path, spec: CoverageSpec) -> int:
    folder = out.parent / f"{out.name}_job"
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "placement.json").write_text(Placement(micro_batch=4).model_dump_json())
    threads = torch.get_num_threads()
    try:
        return exit_code(coverage.main, JobPaths(folder / "spec.json", folder / "placement.json", inputs, out))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def report_of(out: Path) -> CoverageReport:
    return CoverageReport.model_validate_json((out / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(inputs: Path, spec: CoverageSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coverage") / "out"
    assert run(inputs, out, spec) == 0
    return out


def test_every_model_is_drawn_once_on_prompts_spread_over_the_file(finished: Path, spec: CoverageSpec) -> None:
    folders = {path.name: sorted(image.name for image in path.iterdir()) for path in (finished / "samples").iterdir()}
    expected = sorted(f"{prompt:05d}_{seed}.png" for prompt in (0, 2) for seed in (0, 1, 2))
    assert folders == {spec.sample_spec(model).digest: expected for model in (spec.candidate, spec.champion)}


def test_the_report_follows_from_the_table(finished: Path) -> None:
    report = report_of(finished)
    table = pq.read_table(finished / "coverage_scores.parquet").to_pylist()
    assert report.scores_digest == file_sha256(finished / "coverage_scores.parquet")
    assert len(table) == 3 * 2 * 3
    scores: dict[str, dict[int, list[float]]] = {}
    for row in table:
        scores.setdefault(row["role"], {}).setdefault(row["prompt_index"], []).append(row["score"])
    bars = [median(of_prompt) for of_prompt in scores["base"].values()]
    for curve in report.curves:
        of_role = scores[curve.role].values()
        reached = [max(of_prompt) > bar for of_prompt, bar in zip(of_role, bars, strict=True)]
        assert curve.points[-1].coverage == sum(reached) / 2
        assert curve.points[-1].best_score == pytest.approx(sum(map(max, of_role)) / 2)
        assert curve.points[0].best_score == pytest.approx(sum(sum(s) for s in of_role) / 6)
    assert scores["champion"] == scores["base"] != scores["candidate"]


def test_images_of_an_earlier_run_are_not_drawn_again(
    inputs: Path, spec: CoverageSpec, finished: Path, tmp_path: Path
) -> None:
    given: Any = shutil.copytree(inputs, tmp_path / "inputs")
    shutil.copytree(finished / "samples", given, dirs_exist_ok=True)
    assert run(given, tmp_path / "again", spec) == 0
    assert not (tmp_path / "again" / "samples").exists()
    assert report_of(tmp_path / "again") == report_of(finished)


def test_a_judge_missing_from_the_inputs_is_named(inputs: Path, spec: CoverageSpec, tmp_path: Path) -> None:
    absent = spec.model_copy(update={"judge": spec.judge.model_copy(update={"weights_digest": "d" * 64})})
    out = tmp_path / "out"
    assert run(inputs, out, absent) == 2
    failure = JobFailure.model_validate_json((out / "failure.json").read_text())
    assert "judge taste with digest dddd" in failure.message
    assert not (out / "result.json").exists()


def test_a_judge_without_weights_needs_no_folder(inputs: Path, spec: CoverageSpec, tmp_path: Path) -> None:
    statistic = ImageStatistic(statistic="contrast", better="more")
    judge = Judge(name="contrast", scorer=statistic, weights_digest=folder_digest({}))
    assert run(inputs, tmp_path / "out", spec.model_copy(update={"judge": judge})) == 0
    assert report_of(tmp_path / "out").curves[0].points[-1].best_score > 0


def test_a_seed_named_twice_is_refused(spec: CoverageSpec) -> None:
    with pytest.raises(ValueError, match="contains a seed twice"):
        CoverageSpec.model_validate({**spec.model_dump(), "seeds": (1, 1)})
