"""Run the jobs of `alignment` in this process and score the results with the oracle and the judges.

Everything lies below one folder and is found by digest, so a stopped experiment continues where it stopped.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from world import oracle_score, qualities

from alignment.backbones.stable_diffusion import load_pipeline
from alignment.catalogues.objectives import PRDP
from alignment.catalogues.rewards import ClipPreference, ClipScore
from alignment.contracts.data import EncodeSpec, FeatureCache
from alignment.contracts.evaluation import ModelRef, Sampler
from alignment.contracts.jobs import Placement
from alignment.contracts.judges import Judge
from alignment.contracts.training import OnlineData, Recipe, TrainResult, TrainSpec
from alignment.evaluation.sampling import ImageKey, image_grid, missing_images, sample_images
from alignment.evaluation.scoring import read_image, score_samples
from alignment.files.durable import content_digest, file_sha256
from alignment.jobs import encode, train
from alignment.jobs.outcome import JobPaths, exit_code
from alignment.rewards.interface import Scorer, load_scorer
from alignment.statistics.prompts import EvalPrompt
from pipelines.intake import ingestion, snapshot, validation
from pipelines.project.file import load_project
from pipelines.settings import load_settings
from pipelines.workspace import Workspace

SHAPES_DIR = Path(__file__).parent
PROJECT = SHAPES_DIR.parents[1] / "projects" / "shapes.toml"
SCORERS = {"taste_a": ClipPreference(), "taste_b": ClipPreference(), "caption_match": ClipScore()}
PLACEMENT = Placement(micro_batch=32, checkpoint_every_steps=10_000)
STYLE = ("vivid", "centred", "crisp")
"""The qualities of an image that define the style of the mismatched pairs, each between 0 and 1."""

Result = TypeVar("Result", bound=BaseModel)
JobMain = Callable[[JobPaths], None]


@dataclass(frozen=True)
class Scores:
    """Scores under every scorer, one number per (prompt, evaluation seed), prompt by prompt."""

    oracle: list[float]
    judges: dict[str, list[float]]
    style_distance: list[float]
    """Root mean square of the amounts by which vivid, centred and crisp fall short of 1."""


@dataclass
class Laboratory:
    """Inputs by digest, finished jobs by digest, images by digest."""

    root: Path
    sampler: Sampler = field(default_factory=lambda: load_project(PROJECT).evaluation.sampler)
    _judges: dict[str, Scorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs.mkdir(parents=True, exist_ok=True)
        self.base_digest = self.add_input(SHAPES_DIR / "base")

    @property
    def inputs(self) -> Path:
        """The jobs' inputs, by content digest."""
        return self.root / "inputs"

    def add_input(self, path: Path) -> str:
        """Add a folder or file to the inputs; return its digest."""
        digest = content_digest(path) if path.is_dir() else file_sha256(path)
        link = self.inputs / digest
        if not link.exists():
            link.symlink_to(path.resolve())
        return digest

    def judge(self, name: str) -> Judge:
        """One of the world's three scorers; its weights are added to the inputs."""
        digest = self.add_input(SHAPES_DIR / "judges" / name)
        return Judge(name=name, scorer=SCORERS[name], weights_digest=digest, trained_on=(f"panel of {name}",))

    # --- jobs ---

    def run(
        self,
        main: JobMain,
        spec: BaseModel,
        result_type: type[Result],
        placement: Placement = PLACEMENT,
        *,
        fresh: bool = True,
    ) -> Result:
        """Return a job's result, from an earlier run if there is one. ValueError with the job's message on failure.

        `fresh` restarts an unfinished job from the beginning, so that its CPU time covers the complete job.
        """
        out = self.out_of(main, spec)
        out.mkdir(parents=True, exist_ok=True)
        paths = JobPaths(out / "job_spec.json", out / "placement.json", self.inputs, out / "job")
        paths.spec.write_text(spec.model_dump_json(), encoding="utf-8")
        paths.placement.write_text(placement.model_dump_json(), encoding="utf-8")
        if not (paths.out / "result.json").is_file():
            if fresh:
                shutil.rmtree(paths.out, ignore_errors=True)
            started = time.process_time()
            if exit_code(main, paths):
                raise ValueError(f"{paths.out}: {(paths.out / 'failure.json').read_text(encoding='utf-8')}")
            (out / "cpu_seconds").write_text(f"{time.process_time() - started:.1f}\n", encoding="utf-8")
        return result_type.model_validate_json((paths.out / "result.json").read_text(encoding="utf-8"))

    def out_of(self, main: JobMain, spec: BaseModel) -> Path:
        """Paths of a job; its own output is below, in `job`."""
        digest = getattr(spec, "digest")  # noqa: B009 - every spec is a ValueObject
        return self.root / "jobs" / f"{main.__module__.rpartition('.')[2]}_{digest[:16]}"

    def cpu_seconds(self, main: JobMain, spec: BaseModel) -> float:
        """CPU time of a finished job."""
        return float((self.out_of(main, spec) / "cpu_seconds").read_text(encoding="utf-8"))

    def train_spec(self, recipe: Recipe, snapshot_dir: Path, training_prompts: Path) -> TrainSpec:
        """Bind the recipe to the snapshot's features, encoded when missing; to prompts and a reward if it is online."""
        if isinstance(recipe.objective, PRDP):
            reward = self.judge(recipe.objective.reward)
            online = OnlineData(prompts_digest=self.add_input(training_prompts), reward=reward)
            return TrainSpec(recipe=recipe, base_digest=self.base_digest, online=online)
        spec = EncodeSpec(
            snapshot_digest=self.add_input(snapshot_dir),
            base_digest=self.base_digest,
            backbone=recipe.backbone,
            images=recipe.images,
        )
        cache = self.run(encode.main, spec, FeatureCache)
        link = self.inputs / cache.content_digest
        if not link.exists():
            link.symlink_to((self.out_of(encode.main, spec) / "job").resolve())
        return TrainSpec(recipe=recipe, base_digest=self.base_digest, cache_digest=cache.content_digest)

    def train(self, spec: TrainSpec) -> tuple[TrainResult, Path]:
        """Train; return the result and the weights folder, which becomes an input."""
        result = self.run(train.main, spec, TrainResult)
        weights = self.out_of(train.main, spec) / "job" / "weights"
        self.add_input(weights)
        return result, weights

    # --- scores of some weights
    # -------------------------------------------------------------------------------------------

    def draw(self, model: ModelRef, weights: Path | None, keys: Sequence[ImageKey]) -> Path:
        """Return the folder of the model's images."""
        settings = json.dumps([self.sampler.model_dump(mode="json"), sorted({key.prompt.text for key in keys})])
        name = f"{model.weights_digest[:16]}_{_short(settings)}"
        folder = self.root / "samples" / name
        missing = missing_images(folder, keys)
        if missing:
            pipeline = load_pipeline(SHAPES_DIR / "base", model, weights)
            sample_images(pipeline, missing, folder, sampler=self.sampler, resolution=64, micro_batch=64)
        return folder

    def scores(self, model: ModelRef, weights: Path | None, prompts: Sequence[str], seeds: Sequence[int]) -> Scores:
        """Score prompts x seeds with every scorer."""
        keys = image_grid([EvalPrompt(i, text, "") for i, text in enumerate(prompts)], seeds)
        folder = self.draw(model, weights, keys)
        scorers = {name: self._scorer(name) for name in SCORERS}
        rows, _ = score_samples(scorers, {"model": folder}, keys, micro_batch=64)
        judged: dict[str, list[float]] = {name: [] for name in SCORERS}
        for row in sorted(rows, key=lambda row: (row.prompt_index, row.seed)):
            judged[row.scorer].append(round(row.score, 5))
        images = [np.asarray(read_image(folder / key.file_name)) for key in keys]
        prompts = [key.prompt.text for key in keys]
        return Scores(
            oracle=[round(oracle_score(image, prompt), 9) for image, prompt in zip(images, prompts, strict=True)],
            judges=judged,
            style_distance=[round(style_distance(i, p), 5) for i, p in zip(images, prompts, strict=True)],
        )

    def _scorer(self, name: str) -> Scorer:
        if name not in self._judges:
            judge = self.judge(name)
            self._judges[name] = load_scorer(judge, self.inputs / judge.weights_digest, torch.device("cpu"))
        return self._judges[name]


def style_distance(image: np.ndarray, prompt: str) -> float:
    """Distance of an image [H, W, 3] from vivid, centred and crisp: 0 when it is fully all three, 1 when it is none."""
    parts = qualities(image, prompt)
    return float(np.sqrt(np.mean([(1.0 - parts[name]) ** 2 for name in STYLE])))


def project_snapshot(root: Path) -> Path:
    """Make the snapshot of projects/shapes.toml with its own stages, in a store below `root`."""
    out = root / "snapshots" / "world"
    if not (out / "train.parquet").is_file():
        environment = {"PLUMBLINE_STORE_URI": (root / "store").resolve().as_uri(), "PLUMBLINE_STATE_DIR": str(root)}
        project, settings = load_project(PROJECT), load_settings(environment)
        batches = [
            ingestion.ingest(s, Workspace(project, settings))
            for s in ingestion.list_source_shards(Workspace(project, settings))
        ]
        reports = [validation.validate(batch, Workspace(project, settings)) for batch in batches]
        made = snapshot.build_snapshot(reports, Workspace(project, settings))
        out.mkdir(parents=True, exist_ok=True)
        for path in Path(made.uri.removeprefix("file://")).glob("*.parquet"):
            shutil.copy(path, out / path.name)
    return out


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
