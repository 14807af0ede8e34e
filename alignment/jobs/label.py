"""Label training pairs without people.

`python -m alignment.jobs.label --spec S --placement P --inputs DIR --out DIR`

DIR holds, by digest, the snapshot and the judges' folders. OUT gets scores/ (both sides of every pair by every
judge and heuristic), label_report.json, spec.json, the three splits and, last, result.json: a DatasetSnapshot. All
processes divide the scoring, shard by shard; a killed run continues with the next shard.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState

from alignment.contracts.data import SPLITS, DatasetSnapshot
from alignment.contracts.jobs import LABEL_REPORT_FILE, SPEC_FILE, Placement
from alignment.contracts.labelling import HeuristicName, LabelModel, LabelSpec
from alignment.data.human_labels import HELDOUT_SPLITS, Ballot, ItemImages, read_ballots, read_items
from alignment.files.durable import content_digest, write_json
from alignment.files.images import rgb_image
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.jobs.shared_output import share_output
from alignment.labelling.heuristics import measure
from alignment.labelling.labels import Scores, label, pick_human_labels
from alignment.labelling.write_labels import write_relabelled
from alignment.rewards.interface import Scorer, load_scorer

SCORES_DIR = "scores"
SHARD_ITEMS = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """The items to label and their labelers."""

    spec: LabelSpec
    placement: Placement
    paths: JobPaths
    state: PartialState
    snapshot_dir: Path
    train: list[Ballot]
    heldout: list[Ballot]

    def items(self) -> tuple[str, ...]:
        """Distinct items to score: those to relabel, then held-out ones for the report."""
        train = [ballot.item for ballot in self.train if ballot.source in self.spec.relabelled_sources]
        return tuple(dict.fromkeys([*train, *(ballot.item for ballot in self.heldout)]))

    def heuristics(self) -> tuple[HeuristicName, ...]:
        """Labelers without weights."""
        return self.spec.method.heuristics if isinstance(self.spec.method, LabelModel) else ()

    def shard(self, index: int) -> Path:
        """Path of a shard's scores once they are complete."""
        return self.paths.out / SCORES_DIR / f"{index:05d}.parquet"


def main(paths: JobPaths) -> None:
    """Score this rank's shards; rank 0 then labels."""
    work = _open_work(paths)
    items = work.items()
    shards = range((len(items) + SHARD_ITEMS - 1) // SHARD_ITEMS)
    with JobProgress(
        paths.out,
        total=len(shards),
        unit="shards",
        done=_num_finished(work, shards),
        enabled=work.state.is_main_process,
    ) as progress:
        own_shards = [s for s in shards if s % work.state.num_processes == work.state.process_index]
        todo = [shard for shard in own_shards if not work.shard(shard).is_file()]
        for shard, table in _score_shards(work, items, todo):
            _write_shard(table, work.shard(shard))
            progress.update(_num_finished(work, shards), "scoring")
        share_output(work.state, paths.out / SCORES_DIR)
    if work.state.is_main_process:
        _finish(work, items, _read_scores(work, items, shards))
    work.state.wait_for_everyone()


def _open_work(paths: JobPaths) -> _Work:
    """Read spec and snapshot, and raise ValueError for a request that cannot be labelled before anything is scored."""
    spec = read_object(paths.spec, LabelSpec, what="label spec")
    placement = read_object(paths.placement, Placement, what="placement")
    snapshot_dir = paths.input(spec.snapshot.content_digest, "snapshot")
    train = read_ballots(snapshot_dir, "train")
    if isinstance(spec.method, LabelModel):
        pick_human_labels(train, spec, spec.method)
    heldout = [b for split in HELDOUT_SPLITS for b in read_ballots(snapshot_dir, split) if not b.is_tie]
    state = start_processes(placement)
    (paths.out / SCORES_DIR).mkdir(parents=True, exist_ok=True)
    return _Work(spec, placement, paths, state, snapshot_dir, train, heldout)


# --- scoring ----------------------------------------------------------------------------------------------------------


def _num_finished(work: _Work, shards: range) -> int:
    """Count the shards that any rank has finished."""
    return sum(work.shard(shard).is_file() for shard in shards)


def _score_shards(work: _Work, items: Sequence[str], todo: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
    """Compute tables of scores, one per shard; images are read one by one."""
    if not todo:
        return
    scorers = {
        judge.name: load_scorer(judge, work.paths.scorer(judge, "judge"), work.state.device)
        for judge in work.spec.judges
    }
    wanted = [items[s * SHARD_ITEMS : (s + 1) * SHARD_ITEMS] for s in todo]
    found = read_items(work.snapshot_dir, SPLITS, {item for shard in wanted for item in shard})
    for shard, names in zip(todo, wanted, strict=True):
        columns: dict[str, list[object]] = {"item": [], "labeler": [], "first": [], "second": []}
        images = islice(found, len(names))
        while batch := list(islice(images, max(1, work.placement.micro_batch // 2))):
            for labeler, first, second in _score_batch(batch, scorers, work.heuristics()):
                columns["item"] += [item.item for item in batch]
                columns["labeler"] += [labeler] * len(batch)
                columns["first"] += first
                columns["second"] += second
        assert set(columns["item"]) == set(names), "no prompt is in two splits, so items come in their order"
        yield shard, pa.table(columns)


def _score_batch(
    batch: Sequence[ItemImages], scorers: dict[str, Scorer], heuristics: Sequence[HeuristicName]
) -> Iterator[tuple[str, list[float], list[float]]]:
    """(labeler, scores of first sides, scores of second sides)."""
    images = [
        rgb_image(side, f"The image of item {item.item}", item.ground)
        for item in batch
        for side in (item.first, item.second)
    ]
    prompts = [item.prompt for item in batch for _ in range(2)]
    for name, scorer in scorers.items():
        scores = scorer.score(images, prompts).tolist()
        yield name, scores[0::2], scores[1::2]
    for heuristic in heuristics:
        scores = [measure(heuristic, image) for image in images]
        yield heuristic, scores[0::2], scores[1::2]


def _write_shard(table: pa.Table, path: Path) -> None:
    """Write the file atomically."""
    beside = path.with_name(f".{path.name}.part")
    pq.write_table(table, beside)
    beside.replace(path)


def _read_scores(work: _Work, items: Sequence[str], shards: range) -> dict[str, Scores]:
    """Read every labeler's scores in the order of the items."""
    names = [*(judge.name for judge in work.spec.judges), *work.heuristics()]
    rows = [row for shard in shards for row in pq.read_table(work.shard(shard)).to_pylist()]
    found = {(row["labeler"], row["item"]): (row["first"], row["second"]) for row in rows}
    return {
        name: Scores([found[name, item][0] for item in items], [found[name, item][1] for item in items])
        for name in names
    }


# --- labels -----------------------------------------------------------------------------------------------------------


def _finish(work: _Work, items: tuple[str, ...], scores: dict[str, Scores]) -> None:
    """Decide the labels, write the relabelled splits, the report, and last the DatasetSnapshot."""
    out, plain = work.paths.out, work.spec.snapshot
    labelling = label(work.spec, items, scores, train=work.train, heldout=work.heldout)
    for warning in labelling.report.warnings:
        logger.warning("%s", warning)
    counts = write_relabelled(work.snapshot_dir, out, ballots=work.train, decisions=labelling.decisions)
    write_json(out / LABEL_REPORT_FILE, labelling.report.model_dump(mode="json"))
    write_json(out / SPEC_FILE, work.spec.model_dump(mode="json"))
    num_ties_before = sum(ballot.is_tie for ballot in work.train)
    files = [out / f"{split}.parquet" for split in SPLITS]
    result = DatasetSnapshot.model_validate(
        plain.model_dump()
        | {
            "content_digest": content_digest(out, [*files, out / LABEL_REPORT_FILE, out / SPEC_FILE]),
            "num_ties": plain.num_ties - num_ties_before + counts.num_ties,
            "num_captioned": counts.num_captioned,
            "num_unpaired": None,  # only the pairs are written again
            "labelled_by": tuple(sorted({*plain.labelled_by, *work.spec.training_sources})),
        }
    )
    write_result(out, result)


if __name__ == "__main__":
    run_job(main)
