"""Compare PAL with a single-preference head on annotators who disagree, through the real reward job.

    OMP_NUM_THREADS=1 python examples/shapes/compare_tastes.py WORK
    python examples/shapes/compare_tastes.py WORK --report

Rendered pairs labelled by 30 annotators, a fifth of whom are held out as new users. Two populations: the world's own
groups, who share most of their taste, and opposed ones. Each finished run is a JSON line of WORK/tastes.jsonl. The
table is markdown, means over seeds.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import world
from laboratory import SHAPES_DIR, Laboratory
from world import Group, Taste

from alignment.contracts.jobs import Placement
from alignment.contracts.reward_models import RewardRecipe, RewardTrainResult, RewardTrainSpec
from alignment.jobs import train_reward
from pipelines.intake.snapshot import SNAPSHOT_SCHEMA

SEEDS = (7, 8, 9)
ANNOTATORS = 30
TRAIN_LABELS, TEST_LABELS = 125, 40
"""Comparisons per annotator, including ties: 125 leave 100 preferences."""
LABELS = (5, 20, 100)
HEADS = ("pal_a", "pal_b")
OPPOSED: Mapping[str, Group] = {
    "vivid": Group(Taste(vivid=1.0, centred=0.1, crisp=0.0, clean=0.1, match=0.2), share=1 / 3),
    "muted": Group(Taste(vivid=-1.0, centred=0.1, crisp=0.0, clean=0.1, match=0.2), share=1 / 3),
    "off-centre": Group(Taste(vivid=0.1, centred=-1.0, crisp=0.0, clean=0.1, match=0.2), share=1 / 3),
}
POPULATIONS: Mapping[str, Mapping[str, Group]] = {"world": world.GROUPS, "opposed": OPPOSED}
OPTIMISER = {"projector_learning_rate": 5e-3}


def annotators(groups: Mapping[str, Group]) -> list[Taste]:
    """Return the tastes of `ANNOTATORS` people, as many of each group as its share states."""
    names = sorted(groups)
    ends = np.cumsum([groups[name].share for name in names]) * ANNOTATORS
    return [groups[names[int(np.searchsorted(ends, index + 0.5))]].taste for index in range(ANNOTATORS)]


def labelled(groups: Mapping[str, Group], prompts: Sequence[str], labels: int, seed: int) -> pa.Table:
    """Render pairs and label them by each annotator, in the snapshot's columns."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, taste in enumerate(annotators(groups)):
        drawn = [prompts[index] for index in rng.integers(len(prompts), size=labels)]
        for prompt, *images in zip(drawn, world.render(drawn, rng), world.render(drawn, rng), strict=True):
            scores = [sum(getattr(taste, n) * q for n, q in world.qualities(i, prompt).items()) for i in images]
            label = world.label_for(scores[0], scores[1], rng)
            chosen, rejected = images if label >= 0.5 else images[::-1]
            rows.append(
                {
                    "pair_id": f"{seed * 1_000_000 + len(rows):064x}",
                    "prompt": prompt,
                    "caption_chosen": prompt,
                    "caption_rejected": prompt,
                    "image_chosen": world.encode_png(chosen),
                    "image_rejected": world.encode_png(rejected),
                    "is_tie": label == 0.5,
                    "annotator_id": f"annotator-{number:02d}",
                    "source": "panel",
                    "licence": "CC0-1.0",
                }
            )
    return pa.Table.from_pylist(rows, SNAPSHOT_SCHEMA)


def panel_snapshot(out: Path, groups: Mapping[str, Group]) -> Path:
    """The panel's comparisons: training prompts to train on, held-out prompts to test on."""
    if not (out / "train.parquet").is_file():
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(labelled(groups, world.heldout_prompts(), TEST_LABELS, seed=2), out / "test.parquet")
        pq.write_table(SNAPSHOT_SCHEMA.empty_table(), out / "calibration.parquet")
        pq.write_table(labelled(groups, world.training_prompts(), TRAIN_LABELS, seed=1), out / "train.parquet")
    return out


def recipe_of(head: str, seed: int) -> RewardRecipe:
    """Three prototypes, light dropout: the settings that docs/log.md found to learn on so few comparisons."""
    return RewardRecipe.model_validate(
        {
            "name": f"{head}_shapes",
            "head": {"kind": head, "num_prototypes": 3, "projector": {"dropout": 0.1}},
            "optimiser": OPTIMISER,
            "global_batch": 256,
            "steps": 500,
            "seed": seed,
            "labels_per_user": LABELS,
        }
    )


def run(lab: Laboratory, population: str, head: str, seed: int) -> dict[str, Any]:
    """Run one reward job; the embeddings of an earlier job on the same population are reused."""
    snapshot = panel_snapshot(lab.root / "snapshots" / f"panel_{population}", POPULATIONS[population])
    spec = RewardTrainSpec(
        recipe=recipe_of(head, seed),
        snapshot_digest=lab.add_input(snapshot),
        embedder_digest=lab.add_input(SHAPES_DIR / "judges" / "caption_match"),
    )
    kept, out = lab.root / "embeddings" / population, lab.out_of(train_reward.main, spec) / "job"
    if kept.is_dir() and not (out / "result.json").is_file():
        shutil.copytree(kept, out / train_reward.EMBEDDINGS_DIR, dirs_exist_ok=True)
    placement = Placement(micro_batch=64, log_every_steps=50)
    result = lab.run(train_reward.main, spec, RewardTrainResult, placement, fresh=False)
    if not kept.is_dir():
        shutil.copytree(out / train_reward.EMBEDDINGS_DIR, kept)
    return {
        "population": population,
        "head": head,
        "seed": seed,
        "spec_digest": spec.digest,
        "cpu_seconds": lab.cpu_seconds(train_reward.main, spec),
        "accuracies": [row.model_dump(mode="json") for row in result.accuracies],
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the finished runs."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: PAL's accuracy and, after the slash, the single-preference head's on the same comparisons."""
    columns = [("seen", 0), *(("unseen", labels) for labels in LABELS)]
    rows = ["| annotators | head | seeds | seen | " + " | ".join(f"unseen, {n} labels" for n in LABELS) + " |"]
    rows.append("|" + "---|" * 7)
    for population in POPULATIONS:
        for head in HEADS:
            found = [line for line in lines if (line["population"], line["head"]) == (population, head)]
            if found:
                cells = [_cell(found, users, labels) for users, labels in columns]
                rows.append(f"| {population} | {head} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(lines: Sequence[dict[str, Any]], users: str, labels: int) -> str:
    rows = [r for line in lines for r in line["accuracies"] if (r["users"], r["labels_per_user"]) == (users, labels)]
    if not rows:
        return "-"
    ours, theirs = (float(np.mean([row[name] for row in rows])) for name in ("accuracy", "baseline_accuracy"))
    return f"{ours:.3f} / {theirs:.3f} (n {sum(row['num_pairs'] for row in rows)})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every run that is not finished, then print the table."""
    parser = argparse.ArgumentParser(description="Compare PAL with a single-preference head in the shapes world.")
    parser.add_argument("work", type=Path, help="folder for all output")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true", help="print the table of finished runs")
    found = parser.parse_args(arguments)
    lab = Laboratory(found.work.resolve())
    path = lab.root / "tastes.jsonl"
    for seed in () if found.report else found.seeds:
        for population in POPULATIONS:
            for head in HEADS:
                line = run(lab, population, head, seed)
                if line["spec_digest"] not in {known["spec_digest"] for known in read_lines(path)}:
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line, sort_keys=True) + "\n")
    print(table(read_lines(path)))


if __name__ == "__main__":
    main()
