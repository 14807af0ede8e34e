"""The evaluate job on a tiny Stable Diffusion and two tiny judges, alone and with two processes."""

import hashlib
import json
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference, ClipScore, Diversity, ImageStatistic, Reward
from alignment.contracts.evaluation import EvalReport, EvalSpec, ModelRef, Sampler
from alignment.contracts.jobs import JobFailure, Placement, Progress
from alignment.contracts.judges import Judge
from alignment.contracts.training import Lora
from alignment.contracts.values import folder_digest
from alignment.evaluation import scoring
from alignment.evaluation.scoring import read_image
from alignment.files.durable import file_sha256
from alignment.jobs import evaluate
from alignment.jobs.evaluate import main
from alignment.jobs.outcome import JobPaths, exit_code

pytestmark = pytest.mark.timeout(300)

SUMMED_ON_THE_WAY = 1000
"""Products on the way from a pixel to a score: 192 of a patch, then 16 or 32 in each of some twenty matrices."""
PROMPTS = "prompt\tcategory\n" + "".join(f"a plain {c} picture\t{c}\n" for c in ("red", "green", "blue", "white"))
SEEDS = (0, 3)


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def save_clip(folder: Path, seed: int) -> None:
    """A CLIP of random weights that reads letters and 32 px images."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(f"{c}</w>" for c in string.ascii_lowercase),
    ]
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(pieces), "max_position_embeddings": 24, "eos_token_id": 1, "bos_token_id": 0}
    config = CLIPConfig(
        text_config={**text, **width, "pad_token_id": 1},
        vision_config={"image_size": 32, "patch_size": 8, **width},
        projection_dim=8,
        initializer_factor=8.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=24).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def save_lora(base_dir: Path, folder: Path) -> None:
    """An adapter that visibly changes the base."""
    from alignment.backbones.stable_diffusion import StableDiffusionBackbone

    backbone = StableDiffusionBackbone(base_dir, StableDiffusion(resolution=64))
    unet, tuning = backbone.load_denoiser(), Lora(rank=4, alpha=8)
    backbone.attach(unet, tuning, seed=1)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 1, generator=torch.Generator().manual_seed(len(name)))
    backbone.save_weights(unet, tuning, folder)


def save_full(base_dir: Path, folder: Path) -> None:
    """A denoiser that differs from the base."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(base_dir / "unet", use_safetensors=True)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.mul_(1.1)
    unet.save_pretrained(folder / "unet")


def scorer(name: str, kind: Reward) -> Judge:
    return Judge(name=name, scorer=kind, weights_digest=digest_of(name))


@dataclass(frozen=True)
class Bench:
    """A job's inputs, a spec about them, and a way to run it."""

    root: Path
    spec: EvalSpec

    def paths(self, out: str, spec: EvalSpec | None = None, **placement: Any) -> JobPaths:
        (self.root / f"{out}_spec.json").write_text((spec or self.spec).model_dump_json())
        (self.root / f"{out}_placement.json").write_text(Placement(micro_batch=8, **placement).model_dump_json())
        return JobPaths(
            self.root / f"{out}_spec.json", self.root / f"{out}_placement.json", self.root / "inputs", self.root / out
        )

    def run(self, out: str, spec: EvalSpec | None = None) -> EvalReport:
        paths = self.paths(out, spec)
        paths.out.mkdir(exist_ok=True)
        main(paths)
        return EvalReport.model_validate_json((paths.out / "result.json").read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_sd_dir: Path, tiny_snapshot_dir: Path) -> Bench:
    root = tmp_path_factory.mktemp("evaluate")
    inputs = root / "inputs"
    shutil.copytree(tiny_sd_dir, inputs / digest_of("base"))
    shutil.copytree(tiny_snapshot_dir, inputs / digest_of("snapshot"))
    save_lora(tiny_sd_dir, inputs / digest_of("lora"))
    save_full(tiny_sd_dir, inputs / digest_of("full"))
    for seed, name in enumerate(("taste_a", "taste_b", "match")):
        save_clip(inputs / digest_of(name), seed)
    prompts_digest = hashlib.sha256(PROMPTS.encode()).hexdigest()
    (inputs / prompts_digest).write_text(PROMPTS)
    spec = EvalSpec(
        candidate=ModelRef(kind="lora", weights_digest=digest_of("lora")),
        champion=ModelRef(kind="base", weights_digest=digest_of("base")),
        base_digest=digest_of("base"),
        backbone=StableDiffusion(resolution=64),
        prompts_digest=prompts_digest,
        seeds=SEEDS,
        sampler=Sampler(steps=2, guidance_scale=2.0),
        judges=(scorer("taste_a", ClipPreference()), scorer("taste_b", ClipPreference())),
        guards=(scorer("match", ClipScore()),),
        snapshot_digest=digest_of("snapshot"),
    )
    return Bench(root, spec)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    """The output folder of one undisturbed run."""
    bench.run("first")
    return bench.root / "first"


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def sample_dir(bench: Bench, out: str, role: str) -> Path:
    models: dict[str, ModelRef] = dict(bench.spec.models())
    return bench.root / out / "samples" / bench.spec.sample_spec(models[role]).digest


def test_the_table_has_every_role_scorer_prompt_and_seed(bench: Bench, finished: Path) -> None:
    table = pq.read_table(finished / "scores.parquet").to_pydict()
    cells = set(zip(*(table[name] for name in ("role", "scorer", "prompt_index", "seed")), strict=True))
    shuffled = 2 * 2 * 4
    assert len(cells) == len(table["score"]) == 3 * 3 * 4 * 2 + shuffled
    assert sum(role.endswith("_shuffled") for role in table["role"]) == shuffled
    assert list(table) == [
        "role",
        "scorer",
        "scorer_digest",
        "prompt_index",
        "prompt",
        "category",
        "group",
        "seed",
        "score",
    ]
    rows = zip(table["role"], table["prompt_index"], table["prompt"], table["category"], strict=True)
    own = {(i, f"a plain {c} picture", c) for i, c in enumerate(("red", "green", "blue", "white"))}
    assert {row[1:] for row in rows if not row[0].endswith("_shuffled")} == own
    assert len(set(zip(table["scorer"], table["scorer_digest"], strict=True))) == 3


def test_the_report_agrees_with_the_files(bench: Bench, finished: Path) -> None:
    from pipelines.release.gate.checks.score_table import measurement_problems, recompute

    report = EvalReport.model_validate_json((finished / "result.json").read_text())
    assert (report.uri, report.num_prompts, report.problems) == ("", 4, ())
    assert report.spec == bench.spec
    assert EvalSpec.model_validate_json((finished / "spec.json").read_text()) == bench.spec
    assert report.scores_digest == file_sha256(finished / "scores.parquet")
    columns = pq.read_table(finished / "scores.parquet").to_pydict()
    assert recompute(report, columns, scores_sha256=report.scores_digest) == []
    assert measurement_problems(report) == []
    assert [(c.judge, c.num_pairs, c.num_human_ties) for c in report.calibrations] == [
        ("taste_a", 8, 2),
        ("taste_b", 8, 2),
    ]
    pairs = pq.read_table(finished / "calibration_scores.parquet").to_pydict()
    right = [
        c > r
        for j, c, r, t in zip(*(pairs[n] for n in ("judge", "score_chosen", "score_rejected", "is_tie")), strict=True)
        if j == "taste_b" and not t
    ]
    assert report.calibrations[1].accuracy == pytest.approx(sum(right) / 8)


def test_a_model_in_two_roles_is_sampled_once_and_scores_the_same(bench: Bench, finished: Path) -> None:
    assert len(list((finished / "samples").iterdir())) == 2
    assert sample_dir(bench, "first", "champion") == sample_dir(bench, "first", "base")
    assert len(list(sample_dir(bench, "first", "base").glob("*.png"))) == 8
    report = EvalReport.model_validate_json((finished / "result.json").read_text())
    champion, base = (
        [c.model_dump(exclude={"against"}) for c in report.comparisons if c.against == a] for a in ("champion", "base")
    )
    assert champion == base
    difference = pixels(sample_dir(bench, "first", "base") / "00000_0.png") - pixels(
        sample_dir(bench, "first", "candidate") / "00000_0.png"
    )
    assert np.abs(difference).max() > 5


def test_the_contact_sheet_shows_both_models(finished: Path) -> None:
    with Image.open(finished / "contact_sheet.png") as sheet:
        assert sheet.width > 230 + 2 * 192
        assert sheet.height > 4 * 192


def test_the_extremes_are_the_largest_gains_and_losses(bench: Bench, finished: Path) -> None:
    lines = json.loads((finished / "extremes.json").read_text())
    assert [line["end"] for line in lines] == ["gain", "gain", "loss", "loss"]
    assert len({line["prompt_index"] for line in lines}) == 4
    scaled = [sum(line["differences"].values()) for line in lines]
    assert max(scaled[:2]) > max(scaled[2:])
    for line in lines:
        name = f"{line['prompt_index']:05d}_0.png"
        for role in ("champion", "candidate"):
            shown = pixels(finished / line[f"{role}_image"])
            assert np.array_equal(shown, pixels(sample_dir(bench, "first", role) / name))


def test_progress_reaches_its_end(finished: Path) -> None:
    progress = Progress.model_validate_json((finished / "progress.json").read_text())
    assert progress.done == progress.total == 2 * 8 + 2 * 8 + 2 * 10
    assert progress.unit == "images"


def test_a_finished_job_returns_at_once(bench: Bench, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert exit_code(main, bench.paths("first")) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_killed_run_continues_and_gives_the_same_result(bench: Bench, finished: Path) -> None:
    """Files left by a kill after five images: those images, no result."""
    kept = sorted(sample_dir(bench, "first", "base").glob("*.png"))[:5]
    folder = sample_dir(bench, "resumed", "base")
    folder.mkdir(parents=True)
    for path in kept:
        shutil.copy(path, folder)
    before = {path.name: (folder / path.name).stat().st_mtime_ns for path in kept}
    bench.run("resumed")
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    again, once = (
        pq.read_table(bench.root / out / "scores.parquet").column("score").to_numpy() for out in ("resumed", "first")
    )
    np.testing.assert_allclose(again, once, atol=0.05)


def test_guards_that_compare_seeds_or_pixels_fill_the_table_too(bench: Bench, finished: Path) -> None:
    """Diversity among two seeds is one number for both; a scorer without weights needs no folder."""
    statistic = ImageStatistic(statistic="contrast", better="more")
    guards = (
        Judge(name="variety", scorer=Diversity(), weights_digest=digest_of("match")),
        Judge(name="contrast", scorer=statistic, weights_digest=folder_digest({})),
    )
    report = bench.run("guarded", bench.spec.model_copy(update={"guards": guards}))
    assert not report.problems
    rows = pq.read_table(bench.root / "guarded" / "scores.parquet").to_pylist()
    variety: dict[tuple[str, int], set[float]] = {}
    for row in (row for row in rows if row["scorer"] == "variety"):
        variety.setdefault((row["role"], row["prompt_index"]), set()).add(round(row["score"], 6))
    assert len(SEEDS) == 2
    assert all(len(scores) == 1 for scores in variety.values())
    assert max(max(scores) for scores in variety.values()) > 1e-4
    assert {row["score"] >= 0 for row in rows if row["scorer"] == "contrast"} == {True}


def test_finished_pieces_are_not_scored_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pieces one is edited and one is deleted: a resumed run uses the first unchanged."""
    monkeypatch.setattr(evaluate, "PIECE_PROMPTS", 2)
    bench.run("pieces")
    out = bench.root / "pieces"
    first = pq.read_table(out / "scores.parquet").to_pylist()
    for name in ("result.json", "scores.parquet"):
        (out / name).unlink()
    kept, lost = sorted((out / "score_pieces").iterdir())
    table = pq.read_table(kept)
    marked = table.set_column(table.schema.get_field_index("score"), "score", pa.array([0.125] * table.num_rows))
    pq.write_table(marked, kept)
    lost.unlink()
    bench.run("pieces")
    after = pq.read_table(out / "scores.parquet").to_pylist()
    prompts = set(table.column("prompt_index").to_pylist())
    assert len(prompts) == 2
    assert {row["score"] for row in after if row["prompt_index"] in prompts} == {0.125}
    others = [[row for row in rows if row["prompt_index"] not in prompts] for rows in (first, after)]
    assert others[0] == others[1]


def test_an_image_is_read_once_however_many_scorers_there_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(scoring, "read_image", lambda path: read.append(path) or read_image(path))
    bench.run("counted")
    assert len(read) == len(set(read)) == 2 * 4 * len(SEEDS), "the champion is the base here"


def test_a_model_sampled_before_is_not_sampled_again(bench: Bench, finished: Path) -> None:
    digest = bench.spec.sample_spec(bench.spec.candidate).digest
    cached = bench.root / "inputs" / digest
    shutil.copytree(sample_dir(bench, "first", "candidate"), cached)
    report = bench.run("cached")
    assert not (bench.root / "cached" / "samples" / digest).exists()
    first = EvalReport.model_validate_json((finished / "result.json").read_text())
    assert report.comparisons == first.comparisons
    (cached / "00002_3.png").unlink()
    bench.run("incomplete")
    assert len(list((bench.root / "incomplete" / "samples" / digest).glob("*.png"))) == 8
    shutil.rmtree(cached)


def test_full_weights_and_a_separate_champion_make_three_models(bench: Bench) -> None:
    spec = bench.spec.model_copy(
        update={
            "candidate": ModelRef(kind="full", weights_digest=digest_of("full")),
            "champion": bench.spec.candidate,
            "seeds": (0,),
        }
    )
    report = bench.run("three", spec)
    folders = sorted((bench.root / "three" / "samples").iterdir())
    assert len(folders) == 3
    assert len({hashlib.sha256((f / "00000_0.png").read_bytes()).hexdigest() for f in folders}) == 3
    assert report.comparisons[0].model_dump(exclude={"against"}) != report.comparisons[1].model_dump(
        exclude={"against"}
    )


def test_black_images_and_broken_scores_are_problems(bench: Bench, finished: Path) -> None:
    folder = sample_dir(bench, "black", "candidate")
    shutil.copytree(sample_dir(bench, "first", "candidate"), folder)
    Image.new("RGB", (64, 64)).save(folder / "00001_3.png")
    judge_dir = bench.root / "inputs" / digest_of("broken")
    save_clip(judge_dir, 9)
    break_logit_scale(judge_dir)
    broken = bench.spec.judges[0].model_copy(update={"weights_digest": digest_of("broken")})
    report = bench.run("black", bench.spec.model_copy(update={"judges": (broken, bench.spec.judges[1])}))
    text = "\n".join(report.problems)
    assert "candidate: 1 images are black or of a single colour: 00001_3.png" in text
    assert "taste_a against the champion" in text
    assert "taste_a against the base" in text
    assert "Judge 'taste_a': 8 of 8 calibration scores are not finite" in text
    assert {c.scorer for c in report.comparisons} == {"taste_b", "match"}
    assert json.loads((bench.root / "black" / "result.json").read_text())["problems"]


def break_logit_scale(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["logit_scale"] = torch.tensor(1000.0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def failure_of(bench: Bench, out: str, spec: EvalSpec) -> JobFailure:
    assert exit_code(main, bench.paths(out, spec)) == 2
    failure = JobFailure.model_validate_json((bench.root / out / "failure.json").read_text())
    assert failure.kind == "bad_input"
    return failure


def test_bad_input_is_reported(bench: Bench) -> None:
    doubled = bench.spec.model_copy(update={"guards": (scorer("taste_a", ClipScore()),)})
    assert "share the names taste_a" in failure_of(bench, "doubled", doubled).message
    absent = bench.spec.model_copy(update={"prompts_digest": "f" * 64})
    assert "prompts file with digest ffff" in failure_of(bench, "absent", absent).message
    unknown = bench.spec.model_copy(update={"candidate": ModelRef(kind="lora", weights_digest="e" * 64)})
    assert "lora weights with digest eeee" in failure_of(bench, "unknown", unknown).message


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_give_the_result_of_one(
    bench: Bench, finished: Path, two_ranks: Any, rounding: Callable[[int, float], float]
) -> None:
    """Images may differ by the last bit of a pixel, scores of the same images by their rounding."""
    paths = bench.paths("two", num_processes=2)
    job = {"--spec": paths.spec, "--placement": paths.placement, "--inputs": paths.inputs, "--out": paths.out}
    two_ranks.run("alignment.jobs.evaluate", [str(word) for pair in job.items() for word in pair])
    for role in ("candidate", "base"):
        names = sorted(path.name for path in sample_dir(bench, "first", role).iterdir())
        assert sorted(path.name for path in sample_dir(bench, "two", role).iterdir()) == names
        for name in names:
            one, two = (pixels(sample_dir(bench, out, role) / name) for out in ("first", "two"))
            assert np.abs(one - two).max() <= 1
    # One process scores the images that two have drawn.
    shutil.copytree(bench.root / "two" / "samples", bench.root / "again" / "samples")
    bench.run("again")
    for role in ("candidate", "base"):
        drawn, kept = (
            {path.name: path.read_bytes() for path in sample_dir(bench, out, role).iterdir()}
            for out in ("two", "again")
        )
        assert drawn == kept
    first, one, two = (pq.read_table(bench.root / out / "scores.parquet") for out in ("first", "again", "two"))
    assert first.drop_columns(["score"]) == one.drop_columns(["score"]) == two.drop_columns(["score"])
    ours, theirs = two.column("score").to_numpy(), one.column("score").to_numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding(SUMMED_ON_THE_WAY, np.abs(theirs).max()))
    pairs = [pq.read_table(bench.root / out / "calibration_scores.parquet") for out in ("first", "two")]
    assert pairs[0].column("pair_id") == pairs[1].column("pair_id")
