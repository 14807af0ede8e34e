"""Files of an evaluation, written from known scores."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.evaluation import EvalSpec, ModelRef, Sampler
from alignment.contracts.judges import Judge
from alignment.evaluation.record import (
    Record,
    _blank_problems,
    make_report,
    shuffle_of,
    write_calibration_scores,
    write_contact_sheet,
    write_extremes,
    write_scores,
)
from alignment.evaluation.sampling import image_grid
from alignment.evaluation.scoring import CalibrationRow, ScoreRow
from alignment.statistics.human_pairs import PairFacts, from_columns
from alignment.statistics.prompts import EvalPrompt

SEEDS = (0, 1)
PROMPTS = [EvalPrompt(i, f"prompt {i}", "even" if i % 2 == 0 else "odd") for i in range(6)]


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The base is the champion; images are large and encode prompt and model in their colour."""
    spec = EvalSpec(
        candidate=ModelRef(kind="lora", weights_digest=digest_of("candidate")),
        champion=ModelRef(kind="base", weights_digest=digest_of("base")),
        base_digest=digest_of("base"),
        backbone=StableDiffusion(resolution=64),
        prompts_digest=digest_of("prompts"),
        seeds=SEEDS,
        sampler=Sampler(),
        judges=(Judge(name="j", scorer=ClipPreference(), weights_digest=digest_of("j")),),
        guards=(),
        snapshot_digest=digest_of("snapshot"),
        tie_thresholds={"j": 0.5},
    )
    folders = {spec.sample_spec(model).digest: tmp_path / model.kind for model in spec.models().values()}
    for green, folder in enumerate(folders.values()):
        folder.mkdir()
        for key in image_grid(PROMPTS, SEEDS):
            Image.new("RGB", (500, 250), (10 * key.prompt.index, 100 * green, key.seed)).save(folder / key.file_name)
    return Record(tmp_path, spec, PROMPTS, folders)


def score_rows(record: Record) -> list[ScoreRow]:
    """The candidate's gain is prompt index minus 2: two losses, one tie, three wins."""
    candidate = record.roles()["candidate"]
    return [
        ScoreRow(digest, "j", key.prompt.index, key.seed, (key.prompt.index - 2.0) * (digest == candidate))
        for digest in record.folders
        for key in image_grid(PROMPTS, SEEDS)
    ]


CALIBRATION = [CalibrationRow("j", f"p{i}", 1.0, 0.0 if i else 2.0, is_tie=i == 3) for i in range(4)]


def test_the_report_counts_the_rows_of_the_table(record: Record) -> None:
    write_scores(record, reversed(score_rows(record)), {"j": "digest of j"})
    report = make_report(record, CALIBRATION, [])
    against_champion = next(c for c in report.comparisons if c.against == "champion")
    assert (against_champion.wins, against_champion.ties, against_champion.losses) == (3, 1, 2)
    assert report.problems == ()
    assert (report.calibrations[0].num_pairs, report.calibrations[0].accuracy) == (3, pytest.approx(2 / 3))
    table = pq.read_table(record.out / "scores.parquet").to_pydict()
    assert len(table["role"]) == 3 * 6 * 2
    assert set(table["scorer_digest"]) == {"digest of j"}
    assert report.scores_digest == hashlib.sha256((record.out / "scores.parquet").read_bytes()).hexdigest()


def test_equal_scores_give_an_equal_file(record: Record) -> None:
    files = []
    for rows in (score_rows(record), score_rows(record)[::-1]):
        write_scores(record, rows, {"j": "d"})
        files.append((record.out / "scores.parquet").read_bytes())
    assert files[0] == files[1]


def test_a_lost_row_is_a_problem_of_the_report(record: Record) -> None:
    write_scores(record, score_rows(record)[1:], {"j": "d"})
    report = make_report(record, CALIBRATION, [])
    assert report.comparisons == ()
    assert "Each cell must occur exactly once" in report.problems[0]


def test_calibration_scores_are_stored_with_the_facts_of_their_pairs(record: Record) -> None:
    path = record.out / "calibration_scores.parquet"
    facts = {f"p{i}": PairFacts("panel", "a | b", prompt_group="one") for i in range(4)}
    digest = write_calibration_scores(record, CALIBRATION, facts)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    rows, known = from_columns(pq.read_table(path).to_pydict())
    assert (rows, known) == ([row.judged() for row in CALIBRATION], facts)
    write_scores(record, score_rows(record), {"j": "d"})
    report = make_report(record, CALIBRATION, [], facts=facts, calibration_scores_digest=digest)
    assert report.calibration_scores_digest == digest
    alone = make_report(record, CALIBRATION, []).calibrations[0]
    assert report.calibrations[0].accuracy_low < alone.accuracy_low, "three pairs of one prompt are less than three"
    write_calibration_scores(record, [], {})
    assert pq.read_table(path).num_rows == 0


def test_extremes_carry_small_images_of_the_right_prompts(record: Record) -> None:
    write_scores(record, score_rows(record), {"j": "d"})
    write_extremes(record)
    lines = json.loads((record.out / "extremes.json").read_text())
    assert [(line["end"], line["prompt_index"]) for line in lines] == [
        ("gain", 5),
        ("gain", 4),
        ("gain", 3),
        ("loss", 0),
        ("loss", 1),
        ("loss", 2),
    ]
    with Image.open(record.out / lines[0]["candidate_image"]) as candidate:
        assert candidate.size == (384, 192)
        red, green, seed = candidate.getpixel((5, 5))
    with Image.open(record.out / lines[0]["champion_image"]) as champion:
        assert champion.getpixel((5, 5)) == (red, 100 - green, seed) == (50, 100 - green, 0)


def test_extremes_without_scores_are_empty(record: Record) -> None:
    write_scores(record, score_rows(record)[1:], {"j": "d"})
    write_extremes(record)
    assert json.loads((record.out / "extremes.json").read_text()) == []


def test_roles_of_one_model_share_a_column(record: Record) -> None:
    write_contact_sheet(record)
    with Image.open(record.out / "contact_sheet.png") as sheet:
        assert sheet.width < 230 + 3 * 320
        assert sheet.height > 6 * 160
    prompts = json.loads((record.out / "contact_sheet.json").read_text(encoding="utf-8"))
    assert prompts == [prompt.text for prompt in record.prompts], "its rows from the top, as text"


def test_blank_images_are_reported_by_role(record: Record) -> None:
    base = record.roles()["base"]
    problems = _blank_problems(record, [f"{base}/0000{i}_0.png" for i in range(6)])
    assert len(problems) == 1
    assert problems[0].startswith("champion = base: 6 images")
    assert problems[0].endswith("00004_0.png, ...")


def test_scores_against_other_prompts_are_stored_under_separate_roles(record: Record) -> None:
    shuffle = shuffle_of(record)
    assert (shuffle.seed, shuffle.scorers) == (0, frozenset({"j"}))
    assert shuffle.folders == {record.roles()["candidate"], record.roles()["champion"]}
    wrong = [
        ScoreRow(digest, "j", prompt.index, 0, -7.0, shuffled=True) for digest in shuffle.folders for prompt in PROMPTS
    ]
    write_scores(record, [*score_rows(record), *wrong], {"j": "digest of j"})
    table = pq.read_table(record.out / "scores.parquet").to_pydict()
    roles = {role: table["role"].count(role) for role in set(table["role"])}
    assert roles == {"candidate": 12, "champion": 12, "base": 12, "candidate_shuffled": 6, "champion_shuffled": 6}
    for role, index, prompt, score in zip(
        table["role"], table["prompt_index"], table["prompt"], table["score"], strict=True
    ):
        assert (prompt == f"prompt {index}") == (not role.endswith("_shuffled"))
        assert (score == -7.0) == role.endswith("_shuffled")
    assert make_report(record, CALIBRATION, []).problems == ()
