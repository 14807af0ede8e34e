"""Check judges against held-out human pairs: `python -m alignment.jobs.calibrate --spec S --placement P --inputs DIR
--out DIR`.

DIR holds, by digest, the snapshot and the judges' folders. OUT gets calibration_scores.parquet, spec.json and, last,
result.json: a CalibrationReport. All processes share out the pairs. A killed run begins anew: it scores two images a
pair and takes minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from accelerate.utils import gather_object

from alignment.calibration_contracts import CalibrationReport, CalibrationSpec
from alignment.contracts import Placement
from alignment.durable import file_sha256, write_json
from alignment.evaluation.judge_calibration import (
    PairFacts,
    ScoredPair,
    calibrate_judge,
    rater_reliability,
    read_facts,
)
from alignment.evaluation.record import CALIBRATION_SCORES_FILE, write_table
from alignment.evaluation.scoring import (
    CALIBRATION_FILE,
    CalibrationRow,
    calibration_pairs,
    num_calibration_pairs,
    score_calibration,
)
from alignment.job_files import SPEC_FILE
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.labelling.ballots import read_ballots
from alignment.progress import JobProgress
from alignment.rewards.interface import load_scorer


def main(paths: JobPaths) -> None:
    """Score this rank's pairs; rank 0 then writes the report."""
    spec = read_object(paths.spec, CalibrationSpec, "calibration spec")
    placement = read_object(paths.placement, Placement, "placement")
    snapshot_dir = paths.input(spec.snapshot_digest, "snapshot")
    pairs = num_calibration_pairs(snapshot_dir)
    state = start_processes(placement)
    rank, ranks = state.process_index, state.num_processes
    scorers = {judge.name: load_scorer(judge, paths.scorer(judge, "judge"), state.device) for judge in spec.judges}
    with JobProgress(paths.out, total=2 * pairs, unit="images", enabled=state.is_main_process) as progress:
        mine = score_calibration(
            scorers,
            calibration_pairs(snapshot_dir, rank=rank, world_size=ranks),
            micro_batch=placement.micro_batch,
            after_batch=lambda n: progress.update(min(2 * pairs, 2 * n * ranks), "checking judges"),
        )
        rows = sorted(CalibrationRow(*row) for row in gather_object(mine))
    if state.is_main_process:
        leave(paths.out, spec, rows, snapshot_dir=snapshot_dir)
    state.wait_for_everyone()
    state.destroy_process_group()


def leave(out: Path, spec: CalibrationSpec, rows: Sequence[CalibrationRow], *, snapshot_dir: Path) -> None:
    """Write the table, and the report computed from it, result.json last."""
    facts = read_facts(snapshot_dir / CALIBRATION_FILE)
    write_table(out / CALIBRATION_SCORES_FILE, scores_table(rows, facts))
    write_json(out / SPEC_FILE, spec.model_dump(mode="json"))
    judges, problems = [], []
    for judge in spec.judges:
        own = [ScoredPair(*row[1:]) for row in rows if row.judge == judge.name]
        try:
            judges.append(calibrate_judge(judge, own, facts, spec))
        except ValueError as error:
            problems.append(str(error))
    report = CalibrationReport(
        uri="",
        spec=spec,
        scores_digest=file_sha256(out / CALIBRATION_SCORES_FILE),
        reliability=rater_reliability(read_ballots(snapshot_dir, "calibration")),
        judges=tuple(judges),
        problems=tuple(problems),
    )
    write_result(out, report)


def scores_table(rows: Sequence[CalibrationRow], facts: Mapping[str, PairFacts]) -> pa.Table:
    """One row per (judge, pair), with what slices are made of."""
    own = [facts[row.pair_id] for row in rows]
    return pa.table(
        {
            "judge": [row.judge for row in rows],
            "pair_id": [row.pair_id for row in rows],
            "score_chosen": pa.array([row.score_chosen for row in rows], pa.float64()),
            "score_rejected": pa.array([row.score_rejected for row in rows], pa.float64()),
            "is_tie": pa.array([row.is_tie for row in rows], pa.bool_()),
            "source": [facts.source for facts in own],
            "generators": [facts.generators for facts in own],
            "created_at": pa.array([facts.created_at for facts in own], pa.timestamp("us", tz="UTC")),
        }
    )


if __name__ == "__main__":
    run_job(main)
