"""An evaluation with known truth: a score table, the report that follows from it, and the version it is about."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference, ClipScore
from alignment.contracts.coverage import CoverageCurve, CoveragePoint, CoverageReport, CoverageSpec
from alignment.contracts.evaluation import EvalReport, EvalSpec, ModelRef, Sampler
from alignment.contracts.judges import Judge
from alignment.statistics.calibration import calibrate
from alignment.statistics.comparison import SCORE_COLUMNS, ScoreTable, compare_all
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.gate import GatePolicy, GuardRule, PowerRule
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.verdict import Evidence, decide
from pipelines.tracking import registry


def digest_of(name: str) -> str:
    """Return a sha256 made from a name."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class Evaluation:
    """Everything that the gate decides on."""

    report: EvalReport
    columns: dict[str, list[Any]]
    policy: GatePolicy
    candidate: CandidateVersion
    champion_weights_digest: str

    @property
    def scores(self) -> ScoreGrids:
        """The columns as grids."""
        return read_grids(self.columns)

    def decided(self, **changes: Any) -> GateDecision:
        """The gate's decision where the base is the champion; `changes` replace fields of the evidence."""
        evidence = Evidence(
            report=self.report,
            scores=self.scores,
            policy=self.policy,
            candidate=self.candidate,
            champion_version=None,
            champion_weights_digest=self.champion_weights_digest,
        )
        return decide(replace(evidence, **changes))


def score_columns(gains: dict[str, float], *, num_prompts: int, seed: int) -> dict[str, list[Any]]:
    """Scores of three models on two seeds; the candidate's per-prompt gain over both others has sd 1."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for scorer, gain in gains.items():
        level = rng.normal(20, 3, num_prompts)
        lift = {"candidate": rng.normal(gain, 1, num_prompts), "champion": 0 * level, "base": 0 * level}
        for role, change in lift.items():
            for prompt in range(num_prompts):
                rows += [(role, scorer, prompt, s, level[prompt] + change[prompt] + 0.01 * s) for s in (0, 1)]
    return {name: [row[i] for row in rows] for i, name in enumerate(SCORE_COLUMNS)}


def eval_spec(judges: tuple[str, ...], guards: tuple[str, ...]) -> EvalSpec:
    base = digest_of("base")
    return EvalSpec(
        candidate=ModelRef(kind="lora", weights_digest=digest_of("candidate")),
        champion=ModelRef(kind="base", weights_digest=base),
        base_digest=base,
        backbone=StableDiffusion(resolution=64),
        prompts_digest=digest_of("prompts"),
        seeds=(0, 1),
        sampler=Sampler(steps=20, guidance_scale=3.0),
        judges=tuple(
            Judge(name=n, scorer=ClipPreference(), weights_digest=digest_of(n), trained_on=(f"panel_{n}",))
            for n in judges
        ),
        guards=tuple(Judge(name=n, scorer=ClipScore(), weights_digest=digest_of(n)) for n in guards),
        snapshot_digest=digest_of("snapshot"),
    )


def make_evaluation(
    judge_gains: dict[str, float],
    guard_gains: dict[str, float],
    *,
    num_prompts: int = 200,
    accuracy: float = 0.8,
    required_judges: int = 2,
    seed: int = 0,
) -> Evaluation:
    """Judges and guards with the given mean gain of the candidate, in units of its standard deviation over prompts."""
    spec = eval_spec(tuple(judge_gains), tuple(guard_gains))
    columns = score_columns({**judge_gains, **guard_gains}, num_prompts=num_prompts, seed=seed)
    scorers = [*judge_gains, *guard_gains]
    comparisons, problems = compare_all(
        ScoreTable.from_columns(columns), scorers, tie_thresholds={}, confidence=spec.confidence
    )
    right = [1.0 if i < accuracy * 120 else -1.0 for i in range(120)]
    calibrations = [
        calibrate(n, score_chosen=right, score_rejected=[0.0] * 120, is_human_tie=[False] * 120, confidence=0.95)
        for n in judge_gains
    ]
    report = EvalReport(
        uri="file:///store/evaluations/1",
        spec=spec,
        scores_digest=digest_of("scores"),
        num_prompts=num_prompts,
        comparisons=tuple(comparisons),
        calibrations=tuple(calibrations),
        problems=tuple(problems),
    )
    candidate = CandidateVersion(
        model="shapes",
        version=4,
        kind="lora",
        weights_digest=spec.candidate.weights_digest,
        weights_uri="file:///store/jobs/1",
        spec_digest=digest_of("train spec"),
        base_digest=spec.base_digest,
        snapshot_digest=spec.snapshot_digest,
        trained_on=("shapes_pairs",),
        run_id="run",
    )
    policy = GatePolicy(
        minimum_prompts=100,
        required_judges=required_judges,
        minimum_calibration_pairs=100,
        guards={name: GuardRule(margin=0.5) for name in guard_gains},
        power=PowerRule(effect=0.4),
    )
    return Evaluation(report, columns, policy, candidate, spec.champion.weights_digest)


@pytest.fixture
def evaluation_of() -> Callable[..., Evaluation]:
    """Factory of evaluations with known gains."""
    return make_evaluation


@pytest.fixture
def good_evaluation() -> Evaluation:
    """Two judges clearly prefer the candidate, the guard does not move: the gate promotes."""
    return make_evaluation({"taste_a": 0.6, "taste_b": 0.5}, {"caption_match": 0.0})


@pytest.fixture
def coverage_report() -> CoverageReport:
    """Repeated sampling of three models, each curve the same."""
    base = ModelRef(kind="base", weights_digest="b" * 64)
    spec = CoverageSpec(
        candidate=ModelRef(kind="full", weights_digest="c" * 64),
        champion=base,
        base_digest="b" * 64,
        backbone=StableDiffusion(resolution=64),
        prompts_digest="d" * 64,
        num_prompts=10,
        seeds=(0, 1, 2, 3),
        sampler=Sampler(),
        judge=Judge(name="taste", scorer=ClipPreference(), weights_digest="e" * 64),
        bar=0.9,
    )
    points = tuple(
        CoveragePoint(num_samples=k, coverage=0.2 * k, coverage_low=0.1 * k, coverage_high=0.24 * k, best_score=k)
        for k in range(1, 5)
    )
    curves = [CoverageCurve(role=role, points=points, power_law=None) for role in ("candidate", "champion", "base")]
    return CoverageReport(uri="", spec=spec, scores_digest="f" * 64, num_prompts=10, curves=tuple(curves))


@pytest.fixture
def good_decision(good_evaluation: Evaluation) -> GateDecision:
    """The gate's word on it."""
    return good_evaluation.decided()


# --- crashes --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the process being killed at this point."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """`with killed_at(function, alias)`: what is done there is killed where it calls that function of the registry, for
    that alias alone where one is given. A test fails when nothing was killed."""

    @contextmanager
    def dying(function: str, alias: str = "") -> Iterator[None]:
        original = getattr(registry, function)

        def killed(*arguments: Any) -> Any:
            if alias in ("", arguments[2]):
                raise Killed
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(registry, function, killed)
            with pytest.raises(Killed):
                yield

    return dying
