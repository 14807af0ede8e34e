"""Train every objective from one base with one budget and three seeds, and compare them by the oracle.

    OMP_NUM_THREADS=1 python examples/shapes/compare_objectives.py WORK                # everything; hours on one core
    OMP_NUM_THREADS=1 python examples/shapes/compare_objectives.py WORK --only dpo sft
    python examples/shapes/compare_objectives.py WORK --report                         # the table of finished runs
    python examples/shapes/compare_objectives.py WORK --trial mapo_shapes optimiser.learning_rate=3e-5

Each finished run is one JSON line of WORK/results.jsonl; a stopped run continues when you start it again. A trial
trains with overrides and is measured on 100 training prompts, never on the held-out ones; it is stored in
WORK/trials.jsonl. The table is markdown.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from check_oracle import read_prompts
from laboratory import PLACEMENT, SCORERS, SHAPES_DIR, Laboratory, Scores, project_snapshot
from variants import CAPTIONERS, captioned_snapshot, mismatched_snapshot, weaker_snapshot

from alignment.config import load_recipe
from alignment.contracts.evaluation import ModelRef
from alignment.contracts.soup import Greedy, SoupIngredient, SoupResult, SoupSpec, Uniform
from alignment.contracts.training import Recipe
from alignment.jobs import soup, train

logger = logging.getLogger(__name__)

TRAINING_SEEDS = (7, 8, 9)
EVALUATION_SEEDS = (0,)
TRIAL_PROMPTS = 100
RESAMPLES = 4000
GREEDY_GAIN = 0.02
"""In taste_a's units; about the standard error of its mean over 100 prompts between two seeds."""


@dataclass(frozen=True)
class Experiment:
    """A row of the table: a recipe and its training pairs."""

    recipe: str
    pairs: str = "world"
    """`world`, `mismatched`, `weaker`, or a captioning method."""
    overrides: tuple[str, ...] = ("steps=100",)
    """The common budget: 100 optimiser steps of 32 pairs. PRDP, which has no pairs, uses the numbers of its recipe."""


EXPERIMENTS: dict[str, Experiment] = {
    "dpo": Experiment("diffusion_dpo_shapes"),
    "sft": Experiment("sft_shapes"),
    "mapo": Experiment("mapo_shapes"),
    "mismatch-dpo": Experiment("diffusion_dpo_shapes", "mismatched"),
    "mismatch-mapo": Experiment("mapo_shapes", "mismatched"),
    "mismatch-sft": Experiment("sft_shapes", "mismatched"),
    "weaker-dpo": Experiment("diffusion_dpo_shapes", "weaker"),
    "weaker-sft": Experiment("sft_shapes", "weaker"),
    "dcpo-c": Experiment("dcpo_shapes", "captioning"),
    "dcpo-p": Experiment("dcpo_shapes", "perturbation"),
    "dcpo-h": Experiment("dcpo_shapes", "hybrid"),
    "prdp": Experiment("prdp_shapes", overrides=()),
    "ipo": Experiment("ipo_shapes"),
    "mapo-paper": Experiment("mapo_paper_shapes"),
    "dpo-twice-as-long": Experiment("diffusion_dpo_shapes", overrides=("steps=200",)),
    "mapo-twice-as-long": Experiment("mapo_shapes", overrides=("steps=200",)),
    "sft-twice-as-long": Experiment("sft_shapes", overrides=("steps=200",)),
}
SOUPS = ("soup-uniform", "soup-greedy")
BASE = "base"


@dataclass(frozen=True)
class Line:
    """One finished run. `seed` is 0 for the base and for soups."""

    name: str
    seed: int
    recipe: str
    steps: int
    cpu_seconds: float
    weights_digest: str
    evaluation_seeds: tuple[int, ...]
    scores: dict[str, Any]
    notes: dict[str, Any]


class Comparison:
    """Train and measure every run that is not in WORK/results.jsonl yet."""

    def __init__(self, root: Path, evaluation_seeds: Sequence[int]) -> None:
        self.lab = Laboratory(root)
        self.root = root
        self.seeds = tuple(evaluation_seeds)
        self.heldout = read_prompts(SHAPES_DIR / "prompts.tsv")
        self.training_prompts = SHAPES_DIR / "training_prompts.txt"

    # --- the runs of the table ---

    def run(self, names: Iterable[str], seeds: Sequence[int]) -> None:
        """Run every named row for every seed, row by row."""
        self.base()
        for name in names:
            if name in SOUPS:
                self.soup(name)
            for seed in () if name in SOUPS else seeds:
                self.train(name, seed)

    def base(self) -> None:
        """Measure the base, which everything is compared with."""
        if not self._finished(BASE, 0):
            model = ModelRef(kind="base", weights_digest=self.lab.base_digest)
            scores = self.lab.scores(model, None, self.heldout, self.seeds)
            self._note(BASE, 0, scores, recipe="", steps=0, cpu_seconds=0.0, weights_digest=self.lab.base_digest)

    def train(self, name: str, seed: int) -> None:
        """Train one run and measure it on the held-out prompts."""
        if self._finished(name, seed):
            return
        experiment = EXPERIMENTS[name]
        recipe = load_recipe(experiment.recipe, (*experiment.overrides, f"seed={seed}"))
        spec = self.lab.train_spec(recipe, self.pairs(experiment.pairs), self.training_prompts)
        result, weights = self.lab.train(spec)
        model = ModelRef(kind=result.kind, weights_digest=result.weights_digest)
        self._note(
            name,
            seed,
            self.lab.scores(model, weights, self.heldout, self.seeds),
            recipe=recipe.digest,
            steps=recipe.steps,
            cpu_seconds=self.lab.cpu_seconds(train.main, spec),
            weights_digest=result.weights_digest,
            notes={"spec_digest": spec.digest, "final_metrics": result.final_metrics},
        )

    def soup(self, name: str) -> None:
        """Average the DPO runs of all seeds; the greedy soup uses taste_a on training prompts."""
        if self._finished(name, 0):
            return
        dpo = EXPERIMENTS["dpo"]
        recipes = [load_recipe(dpo.recipe, (*dpo.overrides, f"seed={seed}")) for seed in TRAINING_SEEDS]
        specs = [self.lab.train_spec(r, self.pairs("world"), self.training_prompts) for r in recipes]
        found = [self.lab.train(spec)[0] for spec in specs]
        parts = tuple(SoupIngredient(recipe=r, result=result) for r, result in zip(recipes, found, strict=True))
        spec = SoupSpec(ingredients=parts, method=self._greedy() if name == "soup-greedy" else Uniform())
        result = self.lab.run(soup.main, spec, SoupResult, PLACEMENT.model_copy(update={"micro_batch": 64}))
        weights = self.lab.out_of(soup.main, spec) / "job" / "weights"
        model = ModelRef(kind=result.kind, weights_digest=result.weights_digest)
        used = [r for r, part in zip(specs, found, strict=True) if part.weights_digest in result.ingredients]
        self._note(
            name,
            0,
            self.lab.scores(model, weights, self.heldout, self.seeds),
            recipe=spec.digest,
            steps=sum(r.recipe.steps for r in used),
            cpu_seconds=sum(self.lab.cpu_seconds(train.main, r) for r in specs),
            weights_digest=result.weights_digest,
            notes={"own_scores": result.own_scores, "attempts": [a.model_dump(mode="json") for a in result.attempts]},
        )

    def _greedy(self) -> Greedy:
        path = self.root / "soup_prompts.tsv"
        path.write_text("prompt\tcategory\n" + "".join(f"{p}\t\n" for p in self.trial_prompts()), encoding="utf-8")
        return Greedy(
            judge=self.lab.judge("taste_a"),
            prompts_digest=self.lab.add_input(path),
            seeds=(0,),
            sampler=self.lab.sampler,
            minimum_gain=GREEDY_GAIN,
        )

    def pairs(self, name: str) -> Path:
        """Return the snapshot of that name; make it when it is missing."""
        world = project_snapshot(self.root)
        if name == "world":
            return world
        out = self.root / "snapshots" / name
        if name == "mismatched":
            return mismatched_snapshot(out, SHAPES_DIR / "base")
        if name == "weaker":
            return weaker_snapshot(out, SHAPES_DIR / "base")
        return captioned_snapshot(world, out, CAPTIONERS[name])

    # --- trials ---

    def trial_prompts(self) -> list[str]:
        """Return a hundred training prompts, always the same."""
        prompts = self.training_prompts.read_text(encoding="utf-8").splitlines()
        chosen = np.random.default_rng(5).permutation(len(prompts))[:TRIAL_PROMPTS]
        return [prompts[index] for index in sorted(chosen)]

    def trial(self, recipe_name: str, overrides: Sequence[str], pairs: str) -> dict[str, Any]:
        """Train with overrides, compare with the base on training prompts, store and return the result."""
        recipe: Recipe = load_recipe(recipe_name, overrides)
        spec = self.lab.train_spec(recipe, self.pairs(pairs), self.training_prompts)
        result, weights = self.lab.train(spec)
        prompts = self.trial_prompts()
        base = ModelRef(kind="base", weights_digest=self.lab.base_digest)
        ours = self.lab.scores(ModelRef(kind=result.kind, weights_digest=result.weights_digest), weights, prompts, (0,))
        theirs = self.lab.scores(base, None, prompts, (0,))
        found = {
            "recipe": recipe_name,
            "overrides": list(overrides),
            "pairs": pairs,
            "cpu_seconds": self.lab.cpu_seconds(train.main, spec),
            "win_rates": {name: float(np.mean(won(a, b))) for name, a, b in _both(ours, theirs)},
            "gains": {name: float(np.mean(np.subtract(a, b))) for name, a, b in _both(ours, theirs)},
            "final_metrics": result.final_metrics,
        }
        _append(self.root / "trials.jsonl", found)
        return found

    # --- files
    # ------------------------------------------------------------------------------------------------------------

    def _finished(self, name: str, seed: int) -> bool:
        return any((line.name, line.seed) == (name, seed) for line in self.lines())

    def lines(self) -> list[Line]:
        """Finished runs that were measured with these evaluation seeds and trained by the recipe as it is now."""
        path = self.root / "results.jsonl"
        rows = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.is_file() else []
        found = [Line(**{**row, "evaluation_seeds": tuple(row["evaluation_seeds"])}) for row in rows]
        return [line for line in found if line.evaluation_seeds == self.seeds and _is_current(line)]

    def _note(self, name: str, seed: int, scores: Scores, *, notes: dict[str, Any] | None = None, **facts: Any) -> None:
        line = Line(
            name=name, seed=seed, evaluation_seeds=self.seeds, scores=asdict(scores), notes=notes or {}, **facts
        )
        _append(self.root / "results.jsonl", asdict(line))
        logger.info("%s, seed %d: finished", name, seed)


def _is_current(line: Line) -> bool:
    if line.name not in EXPERIMENTS:
        return True
    experiment = EXPERIMENTS[line.name]
    return line.recipe == load_recipe(experiment.recipe, (*experiment.overrides, f"seed={line.seed}")).digest


def _append(path: Path, found: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found, sort_keys=True) + "\n")


# --- the table --------------------------------------------------------------------------------------------------------


def won(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    """1, 1/2 or 0 for each image pair: the trained model's image is better, equal, worse."""
    return np.asarray(0.5 + 0.5 * np.sign(np.round(np.subtract(ours, theirs), 9)))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over prompts."""
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def by_prompt(values: Sequence[float], num_seeds: int) -> np.ndarray:
    """Mean of each prompt over evaluation seeds."""
    return np.asarray(values, dtype=float).reshape(-1, num_seeds).mean(axis=1)


def pooled(runs: Sequence[Line], base: Line, name: str) -> np.ndarray:
    """Share of training seeds (ties half) that beat the base under a scorer, for each prompt."""
    count = len(base.evaluation_seeds)
    theirs = by_prompt(_of(base, name), count)
    return np.mean([won(by_prompt(_of(run, name), count), theirs) for run in runs], axis=0)


def gains(runs: Sequence[Line], base: Line, name: str) -> np.ndarray:
    """Mean score minus the base's over the training seeds, for each prompt, in units of the scorer."""
    count = len(base.evaluation_seeds)
    theirs = by_prompt(_of(base, name), count)
    return np.mean([by_prompt(_of(run, name), count) - theirs for run in runs], axis=0)


def table(lines: Sequence[Line]) -> str:
    """Markdown: one row per experiment, win rates against the base; the oracle's with its interval over prompts.

    A win rate counts prompts and not by how much, so the oracle's mean gain is beside it.
    """
    bases = [line for line in lines if line.name == BASE]
    if not bases:
        return "No run has finished yet."
    base = bases[-1]
    head = "| method | steps | CPU s a run | oracle by seed | oracle, pooled (95 %) | "
    head += "oracle, mean gain (95 %) | "
    head += " | ".join([*SCORERS, "caption_match, mean change", "style distance"]) + " |"
    rows = [head, "|" + "---|" * (head.count("|") - 1)]
    for name in (*EXPERIMENTS, *SOUPS):
        runs = [line for line in lines if line.name == name]
        if runs:
            rows.append(_row(name, runs, base))
    base_style = float(np.mean(base.scores["style_distance"]))
    return "\n".join([*rows, "", f"Style distance of the base: {base_style:.3f}."])


def _row(name: str, runs: Sequence[Line], base: Line) -> str:
    oracle = pooled(runs, base, "oracle")
    seeds = ", ".join(_with_interval(pooled([run], base, "oracle"), short=True) for run in runs)
    cells = [
        name,
        str(runs[0].steps),
        f"{np.mean([run.cpu_seconds for run in runs]):.0f}",
        seeds,
        _with_interval(oracle),
        _with_interval(gains(runs, base, "oracle"), sign="+"),
        *(f"{pooled(runs, base, scorer).mean():.3f}" for scorer in SCORERS),
        f"{gains(runs, base, 'caption_match').mean():+.2f}",
        f"{np.mean([run.scores['style_distance'] for run in runs]):.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _with_interval(values: np.ndarray, *, short: bool = False, sign: str = "") -> str:
    low, high = interval(values)
    form = f"{sign}.{2 if short else 3}f"
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def _of(line: Line, name: str) -> list[float]:
    found: list[float] = line.scores["oracle"] if name == "oracle" else line.scores["judges"][name]
    return found


def _both(ours: Scores, theirs: Scores) -> list[tuple[str, list[float], list[float]]]:
    return [
        ("oracle", ours.oracle, theirs.oracle),
        *((name, ours.judges[name], theirs.judges[name]) for name in SCORERS),
        ("style_distance", ours.style_distance, theirs.style_distance),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure, or print the report."""
    parser = argparse.ArgumentParser(description="Compare the objectives in the shapes world.")
    parser.add_argument("work", type=Path, help="folder for all output")
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS, *SOUPS], help="rows to run (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=TRAINING_SEEDS, help="training seeds")
    parser.add_argument("--evaluation-seeds", nargs="+", type=int, default=EVALUATION_SEEDS)
    parser.add_argument("--trial", nargs="+", metavar="RECIPE [KEY=VALUE]", help="one run on training prompts")
    parser.add_argument("--pairs", default="world", help="training pairs of a trial (default: world)")
    parser.add_argument("--report", action="store_true", help="print the table of finished runs")
    found = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    comparison = Comparison(found.work.resolve(), found.evaluation_seeds)
    if found.trial:
        print(json.dumps(comparison.trial(found.trial[0], found.trial[1:], found.pairs), indent=1))
    elif not found.report:
        comparison.run(found.only or [*EXPERIMENTS, *SOUPS], found.seeds)
    if not found.trial:
        print(table(comparison.lines()))


if __name__ == "__main__":
    main()
