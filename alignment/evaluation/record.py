"""Output files of an evaluation: the score table, the report computed from it, and pictures."""

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.evaluation import EvalReport, EvalSpec
from alignment.contracts.jobs import (
    CALIBRATION_SCORES_FILE,
    CONTACT_SHEET_FILE,
    CONTACT_SHEET_PROMPTS_FILE,
    EXTREMES_FILE,
    SCORES_FILE,
)
from alignment.evaluation.contact_sheet import SheetRow, contact_sheet, evenly_spaced
from alignment.evaluation.sampling import ImageKey, png_bytes
from alignment.evaluation.scoring import CalibrationRow, ScoreRow, Shuffle, read_image
from alignment.files.durable import file_sha256, write_bytes, write_json
from alignment.statistics.best_and_worst import Extreme, extreme_prompts
from alignment.statistics.comparison import ScoreTable, compare_all
from alignment.statistics.human_pairs import PairFacts, agreements, scores_table
from alignment.statistics.prompt_groups import count_groups, group_prompts
from alignment.statistics.prompts import EvalPrompt
from alignment.statistics.score_grids import SHUFFLED
from alignment.statistics.shuffled_prompts import shuffled_prompts

logger = logging.getLogger(__name__)

EXTREMES_DIR = "extremes"
CONTACT_SHEET_PROMPTS = 8
EXTREME_PROMPTS = 4
EXTREME_SIDE = 384
NAMED_PROBLEMS = 5
SHUFFLED_ROLES = ("candidate", "champion")


@dataclass(frozen=True)
class Record:
    """Folders of an evaluation: its images and its output."""

    out: Path
    spec: EvalSpec
    prompts: Sequence[EvalPrompt]
    folders: Mapping[str, Path]
    """Digest of a sample spec to its images."""

    def roles(self) -> dict[str, str]:
        """Role to the digest of its sample spec; two roles may share one model."""
        return {role: self.spec.sample_spec(model).digest for role, model in self.spec.models().items()}


def write_scores(record: Record, rows: Iterable[ScoreRow], scorer_digests: Mapping[str, str]) -> None:
    """Return the columns of scores.parquet; the rows of a model with two roles appear once per role.

    Scores against other prompts are stored under the role's name plus `_shuffled`, with the prompt they were scored
    with.
    """
    by_digest: dict[str, list[ScoreRow]] = {}
    for row in sorted(rows):
        by_digest.setdefault(row.sample_digest, []).append(row)
    cells = [
        (f"{role}{SHUFFLED}" if row.shuffled else role, row)
        for role, digest in record.roles().items()
        for row in by_digest[digest]
        if role in SHUFFLED_ROLES or not row.shuffled
    ]
    prompts = {prompt.index: prompt for prompt in record.prompts}
    others = shuffled_prompts(record.prompts, record.spec.prompts_digest)
    groups = dict(zip(prompts, group_prompts(record.prompts), strict=True))
    table = pa.table(
        {
            "role": [role for role, _ in cells],
            "scorer": [row.scorer for _, row in cells],
            "scorer_digest": [scorer_digests[row.scorer] for _, row in cells],
            "prompt_index": pa.array([row.prompt_index for _, row in cells], pa.int32()),
            "prompt": [
                (others[row.prompt_index] if row.shuffled else prompts[row.prompt_index].text) for _, row in cells
            ],
            "category": [prompts[row.prompt_index].category for _, row in cells],
            "group": pa.array([groups[row.prompt_index] for _, row in cells], pa.int32()),
            "seed": pa.array([row.seed for _, row in cells], pa.int64()),
            "score": pa.array([row.score for _, row in cells], pa.float64()),
        }
    )
    write_table(record.out / SCORES_FILE, table)


def shuffle_of(record: Record) -> Shuffle:
    """Select the images to score against other prompts of the list: candidate and champion, first seed, every judge."""
    roles = record.roles()
    return Shuffle(
        prompts=shuffled_prompts(record.prompts, record.spec.prompts_digest),
        seed=record.spec.seeds[0],
        folders=frozenset(roles[role] for role in SHUFFLED_ROLES),
        scorers=frozenset(judge.name for judge in record.spec.judges),
    )


def write_calibration_scores(record: Record, rows: Sequence[CalibrationRow], facts: Mapping[str, PairFacts]) -> str:
    """Write calibration_scores.parquet (see `scores_table`) and return its sha256, which the report states."""
    path = record.out / CALIBRATION_SCORES_FILE
    write_table(path, scores_table([row.judged() for row in rows], facts))
    return file_sha256(path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(path, buffer.getvalue())


def write_contact_sheet(record: Record) -> None:
    """Draw fixed prompts, first seed, base / champion / candidate; roles that share weights share a column."""
    roles = record.roles()
    labels: dict[str, str] = {}
    for role in ("base", "champion", "candidate"):
        digest = roles[role]
        labels[digest] = f"{labels[digest]} = {role}" if digest in labels else role
    keys = [ImageKey(prompt, record.spec.seeds[0]) for prompt in evenly_spaced(record.prompts, CONTACT_SHEET_PROMPTS)]
    rows = [
        SheetRow(key.prompt.text, {label: read_image(record.folders[d] / key.file_name) for d, label in labels.items()})
        for key in keys
    ]
    sheet = contact_sheet(rows, list(labels.values()))
    write_bytes(record.out / CONTACT_SHEET_FILE, png_bytes(sheet))
    write_json(record.out / CONTACT_SHEET_PROMPTS_FILE, [row.caption for row in rows])


def write_extremes(record: Record) -> None:
    """Write extremes.json and small copies of its images; the list is empty when the scores allow no comparison."""
    try:
        found = extreme_prompts(
            _read_score_table(record), [judge.name for judge in record.spec.judges], EXTREME_PROMPTS
        )
    except ValueError as error:
        logger.warning("no best and worst prompts: %s", error)
        found = []
    (record.out / EXTREMES_DIR).mkdir(exist_ok=True)
    lines = [_write_extreme(record, end=end, index=i, differences=d) for end, i, d in found]
    write_json(record.out / EXTREMES_FILE, [line.model_dump(mode="json") for line in lines])


def _write_extreme(
    record: Record,
    *,
    end: Literal["gain", "loss"],
    index: int,
    differences: dict[str, float],
) -> Extreme:
    """Copy one prompt's two images, first seed, shrunk to the size that a page shows."""
    roles, key = record.roles(), ImageKey(record.prompts[index], record.spec.seeds[0])
    paths = {role: f"{EXTREMES_DIR}/{index:05d}_{role}.png" for role in ("champion", "candidate")}
    for role, path in paths.items():
        image = read_image(record.folders[roles[role]] / key.file_name)
        image.thumbnail((EXTREME_SIDE, EXTREME_SIDE))
        write_bytes(record.out / path, png_bytes(image))
    return Extreme(
        end=end,
        prompt_index=index,
        prompt=key.prompt.text,
        differences=differences,
        champion_image=paths["champion"],
        candidate_image=paths["candidate"],
    )


def _read_score_table(record: Record) -> ScoreTable:
    """Read scores.parquet as it was written."""
    names = ["role", "scorer", "prompt_index", "group", "seed", "score"]
    return ScoreTable.from_columns(pq.read_table(record.out / SCORES_FILE, columns=names).to_pydict())


def make_report(
    record: Record,
    calibration_rows: Sequence[CalibrationRow],
    blank: Sequence[str],
    *,
    facts: Mapping[str, PairFacts] | None = None,
    calibration_scores_digest: str | None = None,
) -> EvalReport:
    """Compute the report from the files just written, so that the same file gives the same report.

    `facts` are those of the calibration pairs; without them each pair counts as its own group.
    `calibration_scores_digest` is the return value of `write_calibration_scores`.
    """
    spec, scores_path = record.spec, record.out / SCORES_FILE
    groups = count_groups(record.prompts)
    scorers = [scorer.name for scorer in (*spec.judges, *spec.guards)]
    comparisons, problems = compare_all(
        _read_score_table(record), scorers, tie_thresholds=spec.tie_thresholds, confidence=spec.confidence
    )
    known = facts or {row.pair_id: PairFacts() for row in calibration_rows}
    calibrations, faults = agreements(
        spec.judges, [row.judged() for row in calibration_rows], known, confidence=spec.confidence
    )
    return EvalReport(
        uri="",
        spec=spec,
        scores_digest=file_sha256(scores_path),
        calibration_scores_digest=calibration_scores_digest,
        num_prompts=len(record.prompts),
        num_groups=groups if groups < len(record.prompts) else None,
        comparisons=tuple(comparisons),
        calibrations=tuple(calibrations),
        problems=(*_blank_problems(record, blank), *problems, *faults),
    )


def _blank_problems(record: Record, blank: Sequence[str]) -> list[str]:
    """Return one sentence per model that drew black or single-coloured images."""
    problems = []
    for digest in record.folders:
        names = [path.split("/")[1] for path in blank if path.startswith(f"{digest}/")]
        roles = " = ".join(role for role, other in record.roles().items() if other == digest)
        if names:
            shown = ", ".join(names[:NAMED_PROBLEMS]) + (", ..." if len(names) > NAMED_PROBLEMS else "")
            problems.append(f"{roles}: {len(names)} images are black or of a single colour: {shown}")
    return problems
