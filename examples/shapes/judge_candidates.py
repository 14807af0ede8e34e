"""Run forty candidates of known kinds through the gate of projects/shapes.toml and compare verdicts with the oracle.

    OMP_NUM_THREADS=1 python examples/shapes/judge_candidates.py WORK                  # all; an hour on one core
    python examples/shapes/judge_candidates.py WORK --report                           # tables of finished ones
    python examples/shapes/judge_candidates.py WORK --report --without diversity       # decided without that guard
    python examples/shapes/judge_candidates.py WORK --report --undeclared              # lineage hidden from the gate
    python examples/shapes/judge_candidates.py WORK --report --required-judges 1       # for when one judge is barred

Each finished candidate is one JSON line of WORK/candidates.jsonl, with its score table and report in the same folder. A
stopped run continues when you start it again. Decisions are made from the score tables whenever a report is printed, so
a changed policy costs nothing. The base is the champion. The gate never sees the oracle's scores.
"""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from candidate_truth import Line, Truth, seed_distance, truth
from candidate_verdict import PolicyChange, decide
from candidates import TRAININGS, Candidate, Training, candidates, write_weights
from laboratory import PROJECT, SHAPES_DIR, Laboratory, project_snapshot
from misleading_pairs import (
    CHANGES,
    PLEASED_PAIRS,
    changed_snapshot,
    chosen_pixels,
    decided,
    pleasing,
    voted,
)
from pleasing_images import please
from variants import mismatched_snapshot
from world import oracle_score

from alignment.backbones.stable_diffusion import load_pipeline
from alignment.config import load_recipe
from alignment.contracts.evaluation import EvalSpec, ModelRef, SampleSpec
from alignment.contracts.judges import Judge
from alignment.contracts.values import folder_digest
from alignment.evaluation.record import Record, make_report, shuffle_of, write_scores
from alignment.evaluation.sampling import image_grid, missing_images, sample_images
from alignment.evaluation.scoring import (
    ScoreRow,
    calibration_pairs,
    read_image,
    score_calibration,
    score_prompts,
    score_samples,
)
from alignment.files.images import rgb_image
from alignment.rewards.interface import Scorer, load_scorer
from alignment.statistics.prompts import read_prompts
from pipelines.contracts.release import GateDecision
from pipelines.project.file import JudgeSection, load_project

logger = logging.getLogger(__name__)

MICRO_BATCH = 64
VERDICTS = ("promote", "hold", "inconclusive", "invalid")
TRUTHS = ("good", "null", "bad")

# --- measurement ------------------------------------------------------------------------------------------------------


class Trial:
    """Train, sample and score every candidate that is not in WORK/candidates.jsonl yet."""

    def __init__(self, root: Path, sampler_steps: int | None = None) -> None:
        self.root = root
        self.lab = Laboratory(root)
        self.project = load_project(PROJECT)
        section = self.project.evaluation
        self.sampler = section.sampler.model_copy(update={"steps": sampler_steps} if sampler_steps else {})
        self.seeds = section.seeds
        self.prompts_path = SHAPES_DIR / "prompts.tsv"
        self.prompts = read_prompts(self.prompts_path)
        self.judges = [self._scorer_spec(judge) for judge in section.judges]
        self.guards = [self._scorer_spec(guard) for guard in section.guards]
        self._scorers: dict[str, Scorer] = {}
        self._base_rows: tuple[list[ScoreRow], list[str]] | None = None
        self._calibration: list[Any] | None = None

    @property
    def results(self) -> Path:
        """One JSON line per finished candidate, including the base's."""
        return self.root / "candidates.jsonl"

    def run(self, chosen: Sequence[Candidate]) -> None:
        """Measure the base, then every candidate that is not finished."""
        done = {line.name for line in self.lines()}
        base = ModelRef(kind="base", weights_digest=self.lab.base_digest)
        if "base" not in done:
            self._note(Candidate("base", "base", 0.0), base, self.draw(base, None), "base")
        for candidate in chosen:
            if candidate.name not in done:
                self.measure(candidate)

    def measure(self, candidate: Candidate) -> None:
        """Make weights, images, scores and report; append the JSON line last."""
        training = TRAININGS.get(candidate.training)
        trained = self.train(training) if training else None
        origin = self.lab.add_input(trained)[:12] if trained else "base"
        folder = self.root / "weights" / f"{candidate.name.replace(' ', '_')}_{origin}"
        weights = write_weights(candidate, SHAPES_DIR / "base", trained, folder)
        model = ModelRef(kind="full", weights_digest=self.lab.add_input(weights))
        images = self.draw(model, weights)
        self.evaluate(candidate, model)
        self._note(candidate, model, images, candidate.name)

    def train(self, training: Training) -> Path:
        """Return the weights of a training, from an earlier run if there is one."""
        recipe = load_recipe(training.recipe, training.overrides)
        spec = self.lab.train_spec(recipe, self.pairs(training.pairs), SHAPES_DIR / "training_prompts.txt")
        return self.lab.train(spec)[1]

    def pairs(self, name: str) -> Path:
        """Return the snapshot of that name; make it when it is missing."""
        world = project_snapshot(self.root)
        out = self.root / "snapshots" / name
        if name == "world":
            return world
        if name == "mismatched":
            return mismatched_snapshot(out, SHAPES_DIR / "base")
        if name in ("votes", "pleasing"):
            return changed_snapshot(world, out, self._vote if name == "votes" else self._please)
        return changed_snapshot(world, out, partial(CHANGES[name], rng=np.random.default_rng(23)))

    def _vote(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Label by taste_a only."""
        prompts = [row["prompt"] for row in rows]
        scores = [
            self.scorer("taste_a").score([rgb_image(row[f"image_{side}"], side) for row in rows], prompts)
            for side in ("chosen", "rejected")
        ]
        return voted(rows, (scores[0] - scores[1]).tolist())

    def _please(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Make chosen images that please taste_a."""
        some = decided(rows)[:PLEASED_PAIRS]
        prompts = [row["prompt"] for row in some]
        images = please(SHAPES_DIR / "judges" / "taste_a", SHAPES_DIR / "base", chosen_pixels(some), prompts)
        return pleasing(some, images)

    # --- images ---

    def sample_spec(self, model: ModelRef) -> SampleSpec:
        """Name a prompt as the evaluation does."""
        return self.spec(model).sample_spec(model)

    def spec(self, model: ModelRef) -> EvalSpec:
        """The evaluation spec that the project makes for this candidate, with the base as incumbent."""
        section = self.project.evaluation
        return EvalSpec(
            candidate=model,
            champion=ModelRef(kind="base", weights_digest=self.lab.base_digest),
            base_digest=self.lab.base_digest,
            backbone=self.project.base.backbone,
            prompts_digest=self.lab.add_input(self.prompts_path),
            seeds=self.seeds,
            sampler=self.sampler,
            judges=tuple(self.judges),
            guards=tuple(self.guards),
            snapshot_digest=self.lab.add_input(project_snapshot(self.root)),
            tie_thresholds=section.tie_thresholds,
            confidence=section.confidence,
        )

    def draw(self, model: ModelRef, weights: Path | None) -> Path:
        """Return the folder of the model's images."""
        folder = self.root / "samples" / self.sample_spec(model).digest
        missing = missing_images(folder, image_grid(self.prompts, self.seeds))
        if missing:
            pipeline = load_pipeline(SHAPES_DIR / "base", model, weights)
            sample_images(pipeline, missing, folder, sampler=self.sampler, resolution=64, micro_batch=MICRO_BATCH)
        return folder

    # --- scores ---

    def scorer(self, name: str) -> Scorer:
        """Load a judge or guard once."""
        if name not in self._scorers:
            spec = next(scorer for scorer in (*self.judges, *self.guards) if scorer.name == name)
            where = self.lab.inputs / spec.weights_digest if spec.scorer.has_weights else self.lab.inputs
            self._scorers[name] = load_scorer(spec, where, torch.device("cpu"))
        return self._scorers[name]

    def _scorer_spec(self, section: JudgeSection) -> Judge:
        digest = folder_digest({})
        if section.scorer.has_weights:
            digest = self.lab.add_input(SHAPES_DIR / "judges" / Path(section.uri).name)
        return Judge(
            name=section.name, scorer=section.scorer, weights_digest=digest, trained_on=tuple(section.trained_on)
        )

    def evaluate(self, candidate: Candidate, model: ModelRef) -> None:
        """Compute score table and report with the evaluation's own functions; the base is scored once for all."""
        out = self.evaluation(candidate.name)
        out.mkdir(parents=True, exist_ok=True)
        spec = self.spec(model)
        folders = {spec.sample_spec(m).digest: self.draw(m, None) for m in (spec.champion,)}
        folders[spec.sample_spec(model).digest] = self.root / "samples" / spec.sample_spec(model).digest
        record = Record(out, spec, self.prompts, folders)
        base_digest, own_digest = folders
        if self._base_rows is None:
            self._base_rows = self._scores(record, base_digest)
        found = self._scores(record, own_digest)
        rows, blank = ([*a, *b] for a, b in zip(self._base_rows, found, strict=True))
        digests = {s.name: self.scorer(s.name).digest for s in (*self.judges, *self.guards)}
        write_scores(record, rows, digests)
        (out / "report.json").write_text(
            make_report(record, self._calibrated(), blank).model_dump_json(), encoding="utf-8"
        )

    def _scores(self, record: Record, digest: str) -> tuple[list[ScoreRow], list[str]]:
        """Score one model's images with every scorer."""
        folders = {digest: record.folders[digest]}
        keys = image_grid(self.prompts, self.seeds)
        scorers = (*self.judges, *self.guards)
        single = {s.name: self.scorer(s.name) for s in scorers if not s.scorer.per_prompt}
        together = {s.name: self.scorer(s.name) for s in scorers if s.scorer.per_prompt}
        rows, blank = score_samples(single, folders, keys, micro_batch=MICRO_BATCH, shuffle=shuffle_of(record))
        return [*rows, *(score_prompts(together, folders, keys) if together else [])], blank

    def _calibrated(self) -> list[Any]:
        if self._calibration is None:
            judges = {judge.name: self.scorer(judge.name) for judge in self.judges}
            pairs = calibration_pairs(project_snapshot(self.root), rank=0, world_size=1)
            self._calibration = score_calibration(judges, pairs, micro_batch=MICRO_BATCH)
        return self._calibration

    # --- files
    # ------------------------------------------------------------------------------------------------------------

    def evaluation(self, name: str) -> Path:
        """Folder of a candidate's score table and report."""
        return self.root / "evaluations" / f"{name.replace(' ', '_')}_{self.sampler.steps}"

    def lines(self) -> list[Line]:
        """Read everything finished with this sampler, including the base."""
        rows = [json.loads(text) for text in self.results.read_text("utf-8").splitlines()] if self._any() else []
        return [line for line in (Line(**row) for row in rows) if line.sampler_steps == self.sampler.steps]

    def _any(self) -> bool:
        return self.results.is_file()

    def _note(self, candidate: Candidate, model: ModelRef, folder: Path, name: str) -> None:
        keys = image_grid(self.prompts, self.seeds)
        images = [np.asarray(read_image(folder / key.file_name)) for key in keys]
        count = len(self.seeds)
        line = Line(
            name=name,
            kind=candidate.kind,
            training=candidate.training,
            scale=candidate.scale,
            weights_digest=model.weights_digest,
            sampler_steps=self.sampler.steps,
            oracle=[round(oracle_score(i, k.prompt.text), 9) for i, k in zip(images, keys, strict=True)],
            seed_distances=[round(seed_distance(images[s : s + count]), 4) for s in range(0, len(images), count)],
        )
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line), sort_keys=True) + "\n")
        logger.info("%s: finished", name)


# --- the tables -------------------------------------------------------------------------------------------------------

Judged = tuple[Line, Truth, GateDecision]


def confusion(judged: Sequence[Judged]) -> str:
    """Markdown: a row for each kind and truth, a column for each verdict."""
    counts: Counter[tuple[str, str, str]] = Counter(
        (line.kind, found.label, decision.verdict) for line, found, decision in judged
    )
    rows = ["| kind | oracle truth | " + " | ".join(VERDICTS) + " |", "|" + "---|" * (2 + len(VERDICTS))]
    kinds = list(dict.fromkeys(line.kind for line, _, _ in judged))
    for kind in kinds:
        for label in TRUTHS:
            own = [counts[kind, label, verdict] for verdict in VERDICTS]
            if any(own):
                rows.append(f"| {kind} | {label} | " + " | ".join(str(count) for count in own) + " |")
    for label in TRUTHS:
        own = [sum(counts[kind, label, verdict] for kind in kinds) for verdict in VERDICTS]
        rows.append(f"| all | {label} | " + " | ".join(str(count) for count in own) + " |")
    return "\n".join(rows)


def details(judged: Sequence[Judged]) -> str:
    """Markdown: one row per candidate, with the checks that rejected it."""
    rows = ["| candidate | truth | oracle win rate | diversity | verdict | because of |", "|" + "---|" * 6]
    for line, found, decision in judged:
        kept = ", ".join(check.name for check in decision.checks if check.decisive and not check.passed)
        why = f" ({found.why})" if found.why else ""
        rate = f"{found.win_rate:.3f} ({found.low:.3f} to {found.high:.3f})"
        rows.append(
            f"| {line.name} | {found.label}{why} | {rate} | {found.diversity:.2f} | {decision.verdict} | {kept} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print the report."""
    parser = argparse.ArgumentParser(description="Run forty candidates of known kinds through the gate.")
    parser.add_argument("work", type=Path, help="folder for all output")
    parser.add_argument(
        "--sampler-steps",
        type=int,
        help="sampler steps, fewer than the project's to save time; for base and all candidates",
    )
    parser.add_argument("--first", type=int, help="number of candidates, of every kind in turn")
    parser.add_argument("--report", action="store_true", help="print the tables of finished candidates")
    parser.add_argument("--without", nargs="+", default=[], metavar="GUARD", help="decide without this guard")
    parser.add_argument("--undeclared", action="store_true", help="decide as if the lineage named only human pairs")
    parser.add_argument("--required-judges", type=int, help="decide as if the policy required this many judges")
    found = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    trial = Trial(found.work.resolve(), found.sampler_steps)
    if not found.report:
        trial.run(candidates()[: found.first])
    lines = {line.name: line for line in trial.lines()}
    base = lines.pop("base", None)
    if base is None:
        parser.error("no candidate has finished yet")
    categories = [prompt.category for prompt in trial.prompts]
    margin = trial.project.gate.slices.margin
    change = PolicyChange(tuple(found.without), found.undeclared, found.required_judges)
    judged = [
        (
            line,
            truth(line, base, categories, margin),
            decide(trial.evaluation(line.name), trial.project.gate, line, change=change),
        )
        for line in (lines[c.name] for c in candidates() if c.name in lines)
    ]
    print(confusion(judged), details(judged), sep="\n\n")


if __name__ == "__main__":
    main()
