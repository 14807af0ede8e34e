"""Trial reports made to order, and an engine with invented results.

Its jobs publish what real ones would, with figures computed from their spec.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.contracts.data import DatasetSnapshot, FeatureCache
from alignment.contracts.evaluation import Comparison, EvalReport, EvalSpec
from alignment.contracts.reference_errors import ReferenceErrors, ReferenceSpec
from alignment.contracts.training import Recipe, TrainResult, TrainSpec
from alignment.statistics.comparison import ScoreTable, compare_all
from pipelines.contracts.jobs import JobRequest
from pipelines.project.file import Project, load_project
from pipelines.project.search import SearchSection
from pipelines.search.ranking import TrialReport
from pipelines.settings import Settings
from pipelines.store.storage import open_store

ROOT = Path(__file__).parents[3]
TEST_PROMPTS = tuple(f"a shape number {number}" for number in range(12))


@pytest.fixture
def report() -> Callable[..., TrialReport]:
    """Return a measured trial with a mean gain; `changes` replace fields of it."""

    def make(gain: float = 0.1, **changes: Any) -> TrialReport:
        comparison = Comparison(
            scorer="taste",
            against="base",
            num_prompts=4,
            wins=3,
            ties=0,
            losses=1,
            win_rate=0.75,
            win_rate_low=0.3,
            win_rate_high=0.95,
            mean_difference=gain,
            mean_difference_low=gain - 0.05,
            mean_difference_high=gain + 0.05,
            p_value=0.1,
        )
        facts: dict[str, Any] = {
            "outcome": "measured",
            "recipe": "diffusion_dpo_shapes",
            "changes": (),
            "micro_batch": 8,
            "memory_floor_gib": 0.5,
            "peak_memory_gib": 1.5,
            "items_per_second": 10.0,
            "final_run_hours": 0.5,
            "seconds": 60.0,
            "against_base": comparison,
        }
        return TrialReport(**{**facts, **changes})

    return make


class Answers:
    """Invents the results of jobs. A recipe's quality is `gain(recipe)`; its pace and peak are given."""

    def __init__(self, settings: Settings, folder: Path, gain: Callable[[Recipe], float]) -> None:
        self.settings, self.folder, self.gain = settings, folder, gain
        self.store = open_store(settings.store_uri, settings)
        self.pace, self.peak = 10.0, 1.0
        self.reference_pace = 40.0
        self.failure: dict[str, Exception] = {}
        """Maps the kind of a job to the exception that running it raises."""
        self.ran: list[JobRequest] = []
        self.problems: tuple[str, ...] = ()
        self.recipes: dict[str, Recipe] = {}

    def __call__(self, request: JobRequest) -> dict[str, Any]:
        manifest = self.store.read_manifest(request.output_uri)
        if manifest is not None:
            return manifest.value
        if request.kind in self.failure:
            raise self.failure[request.kind]
        self.ran.append(request)
        out = self.folder / request.spec_digest
        out.mkdir(parents=True)
        answers = {
            "encode": self._encode,
            "reference_errors": self._reference,
            "train": self._train,
            "evaluate": self._evaluate,
        }
        value = answers[request.kind](request, out)
        self.store.publish_folder(out, request.output_uri, value)
        return value

    def kinds(self) -> list[str]:
        return [request.kind for request in self.ran]

    def _encode(self, request: JobRequest, out: Path) -> dict[str, Any]:
        (out / "index.json").write_text("{}")
        cache = FeatureCache(
            uri=request.output_uri,
            content_digest="c" * 64,
            spec_digest=request.spec_digest,
            num_pairs=10,
            num_captions=5,
            latent_shape=(4, 8, 8),
        )
        return cache.model_dump(mode="json")

    def _reference(self, request: JobRequest, out: Path) -> dict[str, Any]:
        spec = ReferenceSpec.model_validate(request.spec)
        line = {"step": 1, "unix_seconds": 0.0, "metrics": {"pairs_per_second": self.reference_pace}}
        (out / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        errors = ReferenceErrors(
            uri=request.output_uri,
            content_digest="e" * 64,
            spec_digest=request.spec_digest,
            key=spec.key,
            num_visits=spec.common.steps,
        )
        return errors.model_dump(mode="json")

    def _train(self, request: JobRequest, out: Path) -> dict[str, Any]:
        spec = TrainSpec.model_validate(request.spec)
        self.recipes[request.spec_digest] = spec.recipe
        lines = [
            {"step": step, "unix_seconds": 0.0, "metrics": {"pairs_per_second": pace, "resident_memory_gib": peak}}
            for step, pace, peak in ((1, 0.1, 0.5), (2, self.pace, self.peak), (3, self.pace, self.peak))
        ]
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = TrainResult(
            uri=request.output_uri,
            spec_digest=request.spec_digest,
            kind=spec.recipe.tuning.kind,
            weights_digest=request.spec_digest,
            base_digest=spec.base_digest,
            steps=spec.recipe.steps,
            num_pairs=10,
            final_metrics={},
        )
        return result.model_dump(mode="json")

    def _evaluate(self, request: JobRequest, out: Path) -> dict[str, Any]:
        spec = EvalSpec.model_validate(request.spec)
        gain = self.gain(self.recipes[spec.candidate.weights_digest])
        prompts = range(len(TEST_PROMPTS))
        rows = [
            {
                "role": role,
                "scorer": judge.name,
                "prompt_index": prompt,
                "seed": seed,
                "score": float(prompt + (gain + 0.01 * (-1) ** prompt if role == "candidate" else 0.0)),
            }
            for role in ("candidate", "champion", "base")
            for judge in spec.judges
            for prompt in prompts
            for seed in spec.seeds
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "scores.parquet")
        table = ScoreTable.from_columns(pa.Table.from_pylist(rows).to_pydict())
        comparisons, _ = compare_all(table, [j.name for j in spec.judges], tie_thresholds={}, confidence=0.95)
        report = EvalReport(
            uri=request.output_uri,
            spec=spec,
            scores_digest="d" * 64,
            num_prompts=len(TEST_PROMPTS),
            comparisons=tuple(comparisons),
            calibrations=(),
            problems=self.problems,
        )
        return report.model_dump(mode="json")


def publish_snapshot(settings: Settings, folder: Path, prompts: tuple[str, ...] = TEST_PROMPTS) -> DatasetSnapshot:
    """Publish a snapshot in the store whose test split contains these prompts."""
    store = open_store(settings.store_uri, settings)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string())}), folder / "test.parquet")
    (folder / "train.parquet").write_text("not needed")
    uri = store.uri("snapshots", folder.name)
    manifest = store.publish_folder(folder, uri, {})
    return DatasetSnapshot(
        uri=uri,
        content_digest=manifest.content_digest,
        num_pairs={"train": 8, "calibration": 2, "test": len(prompts)},
        num_ties=0,
        num_prompts=20,
        sources=("shapes_pairs",),
        licences=("CC0-1.0",),
        batch_digests=("6" * 64,),
        heldout_prompts_digest="7" * 64,
    )


@dataclass
class SearchWorld:
    """The shapes project with a separate store, a snapshot in it, and the engine with invented results."""

    project: Project
    settings: Settings
    snapshot: DatasetSnapshot
    engine: Answers
    folder: Path

    def with_section(self, **section: Any) -> Project:
        """Return the project with another search."""
        return self.project.model_copy(update={"search": SearchSection(**section)})


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> SearchWorld:
    """The better a recipe, the nearer its learning rate is to 3e-5."""
    (tmp_path / "projects").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = tmp_path / "projects" / "shapes.toml"
    path.write_text((ROOT / "projects" / "shapes.toml").read_text())
    engine = Answers(settings, tmp_path / "jobs", lambda r: 1 - abs(r.optimiser.learning_rate - 3e-5) * 1e5)
    snapshot = publish_snapshot(settings, tmp_path / "snapshot")
    return SearchWorld(load_project(path), settings, snapshot, engine, tmp_path)
