"""Average the weights of finished runs.

`python -m alignment.jobs.soup --spec S --placement P --inputs DIR --out DIR`

DIR holds, by digest, the ingredients' weights/ folders and, for a greedy soup, the base, the judge and the prompts
file. OUT gets weights/, samples/<weights digest>/ of every model that was scored and, last, result.json. All processes
divide the images; each one averages the weights, to the same bytes. A stopped run keeps its images.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from alignment.contracts.evaluation import ModelRef
from alignment.contracts.jobs import SAMPLES_DIR, WEIGHTS_DIR, Placement
from alignment.contracts.soup import Greedy, SoupAttempt, SoupResult, SoupSpec, recipe_family
from alignment.evaluation.model_images import ModelImages
from alignment.evaluation.sampling import ImageKey, image_grid, missing_images, share_of_rank
from alignment.evaluation.scoring import score_samples
from alignment.files.durable import content_digest
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, read_object, run_job, write_result
from alignment.jobs.processes import device_of, start_processes
from alignment.jobs.shared_output import share_output
from alignment.rewards.interface import Scorer, load_scorer
from alignment.statistics.prompts import read_prompts
from alignment.training.soup import (
    GreedySoup,
    Ingredient,
    Weights,
    check_ingredients,
    greedy_soup,
    uniform_soup,
    write_soup,
)

logger = logging.getLogger(__name__)


def main(paths: JobPaths) -> None:
    """Read the spec, refuse ingredients that cannot be averaged, average."""
    spec = read_object(paths.spec, SoupSpec, what="soup spec")
    placement = read_object(paths.placement, Placement, what="placement")
    ingredients = _find_ingredients(paths, spec)
    check_ingredients(ingredients)
    state = start_processes(placement)
    readers = [ingredient.read for ingredient in ingredients]
    if isinstance(spec.method, Greedy):
        scoring = _open_scoring(paths, spec, spec.method, placement, state, ingredients=ingredients)
        with scoring.progress:
            own_scores = [scoring.score_folder(ingredient.weights_dir) for ingredient in ingredients]
            soup = greedy_soup(readers, own_scores, scoring.score, minimum_gain=spec.method.minimum_gain)
        result = _finish(paths, spec, ingredients, soup.weights, is_main=state.is_main_process)
        result = result.model_copy(update=_history(spec, spec.method, soup, own_scores))
    else:
        weights = uniform_soup(readers)
        result = _finish(paths, spec, ingredients, weights, is_main=state.is_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        write_result(paths.out, result)
    state.wait_for_everyone()


def _find_ingredients(paths: JobPaths, spec: SoupSpec) -> list[Ingredient]:
    """Return the runs' weights folders. ValueError when one is not among the inputs."""
    return [
        Ingredient(
            name=f"{part.recipe.name} ({part.result.weights_digest[:12]})",
            weights_dir=paths.input(part.result.weights_digest, f"weights of {part.recipe.name}"),
            base_digest=part.result.base_digest,
            family=recipe_family(part.recipe),
        )
        for part in spec.ingredients
    ]


def _finish(
    paths: JobPaths, spec: SoupSpec, ingredients: Sequence[Ingredient], weights: Weights, *, is_main: bool
) -> SoupResult:
    """Write weights/ (rank 0) and describe it as a uniform soup."""
    first = spec.ingredients[0].result
    with tempfile.TemporaryDirectory(dir=paths.out) as scratch:
        write_soup(weights, ingredients[0], Path(scratch) / WEIGHTS_DIR)
        digest = content_digest(Path(scratch) / WEIGHTS_DIR)
        if is_main:
            shutil.rmtree(paths.out / WEIGHTS_DIR, ignore_errors=True)
            (Path(scratch) / WEIGHTS_DIR).rename(paths.out / WEIGHTS_DIR)
    return SoupResult(
        uri="",
        spec_digest=spec.digest,
        kind=first.kind,
        weights_digest=digest,
        base_digest=first.base_digest,
        ingredients=tuple(part.result.weights_digest for part in spec.ingredients),
    )


def _history(spec: SoupSpec, method: Greedy, soup: GreedySoup, own_scores: Sequence[float]) -> dict[str, Any]:
    digests = [part.result.weights_digest for part in spec.ingredients]
    return {
        "ingredients": tuple(digests[index] for index in soup.ingredients),
        "own_scores": tuple(own_scores),
        "chosen_by": method.judge.training_sources,
        "attempts": tuple(
            SoupAttempt(weights_digest=digests[attempt.ingredient], score=attempt.score, kept=attempt.kept)
            for attempt in soup.attempts
        ),
    }


# --- a judge's score of some weights ----------------------------------------------------------------------------------


@dataclass
class _SoupScoring:
    """Samples from weights and scores the images; every process calls it with the same weights."""

    paths: JobPaths
    spec: SoupSpec
    method: Greedy
    placement: Placement
    state: PartialState
    like: Ingredient
    grid: list[ImageKey]
    judge: Scorer
    progress: JobProgress
    images: ModelImages
    done: int = 0

    def score(self, weights: Weights) -> float:
        """Return the judge's mean over prompts and seeds for these weights."""
        with tempfile.TemporaryDirectory(dir=self.paths.out) as scratch:
            write_soup(weights, self.like, Path(scratch))
            return self.score_folder(Path(scratch))

    def score_folder(self, weights_dir: Path) -> float:
        """Return the judge's mean over prompts and seeds for a weights/ folder; its images are stored by its digest."""
        digest = content_digest(weights_dir)
        samples = self.paths.out / SAMPLES_DIR / digest
        own_share = share_of_rank(self.grid, self.state.process_index, self.state.num_processes)
        missing = missing_images(samples, own_share)
        model = ModelRef(kind=self.spec.ingredients[0].result.kind, weights_digest=digest)
        self.images.draw(model, weights_dir, missing, samples)
        share_output(self.state, samples, everywhere=True)
        rows, _ = score_samples(
            {"judge": self.judge}, {digest: samples}, own_share, micro_batch=self.placement.micro_batch
        )
        scores = sorted(gather_object([(row.prompt_index, row.seed, row.score) for row in rows]))
        self.done += len(self.grid)
        self.progress.update(self.done, "scoring")
        return float(sum(score for _, _, score in scores) / len(scores))


def _open_scoring(
    paths: JobPaths,
    spec: SoupSpec,
    method: Greedy,
    placement: Placement,
    state: PartialState,
    *,
    ingredients: Sequence[Ingredient],
) -> _SoupScoring:
    """Load the judge, the prompts and the number of images that a greedy soup scores."""
    grid = image_grid(read_prompts(paths.input(method.prompts_digest, "prompts file")), method.seeds)
    judge_dir = paths.scorer(method.judge, "judge")
    base_dir = paths.input(spec.ingredients[0].result.base_digest, "base model")
    backbone = spec.ingredients[0].recipe.backbone
    return _SoupScoring(
        paths=paths,
        spec=spec,
        method=method,
        placement=placement,
        state=state,
        like=ingredients[0],
        grid=grid,
        judge=load_scorer(method.judge, judge_dir, state.device),
        progress=JobProgress(
            paths.out, total=len(grid) * (2 * len(ingredients) - 1), unit="images", enabled=state.is_main_process
        ),
        images=ModelImages(backbone, base_dir, method.sampler, device_of(state), placement.micro_batch),
    )


if __name__ == "__main__":
    run_job(main)
