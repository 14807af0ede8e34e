"""The operating curve of a policy: how often the gate promotes candidates whose true quality is known.

Synthetic score tables go through `verdict.decide`, the code that decides on real candidates. Judges' differences over
prompts are normal with standard deviation 1 and a common correlation. Guards are independent, and their standard
deviation makes the margin a stated number of standard deviations. Seeds scatter around each prompt's mean.
Shape letters: P prompts, S seeds.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.catalogues.backbones import StableDiffusion
from alignment.catalogues.rewards import ClipPreference, ClipScore
from alignment.contracts.calibration import Calibration
from alignment.contracts.evaluation import Comparison, EvalReport, EvalSpec, ModelRef, Sampler
from alignment.contracts.judges import Judge
from alignment.contracts.values import Record
from alignment.statistics.comparison import Floats, Integers, SeedGrid, compare_differences
from alignment.statistics.noninferiority import share_interval
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.project.gate import GatePolicy, GuardRule
from pipelines.release.gate.verdict import Evidence, decide

SEED_SPREAD = 0.5
"""Standard deviation of one image's score around its prompt's mean, in standard deviations of the differences."""

LEVEL = 20.0
"""Mean score of a champion under scorers without absolute limits."""

RARE_LOSSES = ((0.05, 6.0, 0.25), (0.03, 10.0, 0.2), (0.05, 10.0, 0.25))
"""Share of prompts that lose, by how much, and the gain of the others: means of -0.06, -0.11 and -0.26."""

SLICE_LOSSES = (0.3, 0.4, 0.5, 0.6, 0.8)
"""Losses within one slice, in standard deviations: small ones are visible only in slices with many prompts."""

TRAINED_ON = "trained_on"
"""Name of the simulated judge that the candidate learnt from."""


@dataclass(frozen=True)
class World:
    """The settings that every simulated evaluation shares."""

    policy: GatePolicy
    num_prompts: int
    num_judges: int = 3
    slices: Mapping[str, float] = field(default_factory=dict)
    """Slice name to its share of the prompts."""
    correlation: float = 0.5
    """Correlation of the judges' differences over prompts."""
    margin_scale: float = 0.15
    """A guard's margin in standard deviations of its paired difference, if it is not in `guard_margin_scales`."""
    guard_margin_scales: Mapping[str, float] = field(default_factory=dict)
    """Guard to its margin in standard deviations, as an evaluation measured it."""
    tie_thresholds: Mapping[str, float] = field(default_factory=dict)
    """Judge to its tie threshold, in standard deviations of its differences."""
    guards: tuple[str, ...] | None = None
    """Guards that the evaluation measures; None means those with a rule in the policy."""
    seeds: tuple[int, ...] = (0, 1)
    confidence: float = 0.95

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the guards and of the drift statistics."""
        rules = {*self.policy.guards, *self.policy.detectors.drift}
        return tuple(sorted(rules if self.guards is None else self.guards))

    def spread(self, guard: str) -> float:
        """Standard deviation of a guard's paired difference, in its units."""
        rule, drift = self.policy.guards.get(guard), self.policy.detectors.drift.get(guard)
        margin = _margin(rule) if rule else drift.margin if drift else 1.0
        return (margin or 1.0) / self.guard_margin_scales.get(guard, self.margin_scale)

    def in_spreads(self, guard: str) -> bool:
        """Return True for a statistic whose margin counts the champion's standard deviations over prompts."""
        drift = self.policy.detectors.drift.get(guard)
        return drift is not None and drift.unit == "sd"

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the voting judges."""
        return tuple(f"judge_{index + 1}" for index in range(self.num_judges))


@dataclass(frozen=True)
class Truth:
    """A kind of candidate, defined by its true gains and losses."""

    name: str
    gains: tuple[float, ...] = ()
    """Mean difference under each judge, in standard deviations; the last value is used for all further judges."""
    trained_on_gain: float | None = None
    """The same under an additional judge that the candidate was trained on; None means that there is none."""
    guard_loss: float = 0.0
    """Loss under the first guard, in multiples of its margin."""
    slice_gain: float | None = None
    """Mean difference under every judge within the first slice, instead of `gains`."""
    rare_share: float = 0.0
    """Share of the prompts that the candidate fails under every judge; drawn at random for each evaluation."""
    rare_gain: float = 0.0
    """Mean difference on those, instead of `gains`."""
    good: bool | None = None
    """True if it should be promoted; None if that is debatable."""

    def gain(self, judge: int) -> float:
        """Return the mean difference under one judge."""
        return self.gains[min(judge, len(self.gains) - 1)] if self.gains else 0.0


class Outcome(Record):
    """Number of verdicts of each kind for one kind of candidate."""

    truth: str
    good: bool | None
    simulations: int
    promoted: float
    promoted_low: float
    promoted_high: float
    """Wilson interval at 95 %."""
    verdicts: dict[str, int]
    faults: dict[str, int]
    """Reason to the number of evaluations that were invalid because of it."""


def standard_truths(world: World) -> list[Truth]:
    """Return the candidates to simulate for every policy."""
    truths = [
        Truth("no effect", good=False),
        *(Truth(f"gain of {d:g} sd", (d,), good=True) for d in (0.05, 0.1, 0.15, 0.2, 0.3)),
        Truth("60 % true win rate", (0.2533,), good=True),
        Truth("loss of 0.1 sd", (-0.1,), good=False),
        Truth("one judge hacked by 0.5 sd", (0.5, 0.0), good=False),
        Truth("one hacked, others lose 0.05", (0.5, -0.05), good=False),
        Truth("trained-on judge hacked by 1 sd", (0.0,), trained_on_gain=1.0, good=False),
        Truth("trained-on judge by 1 sd, others 0.1", (0.1,), trained_on_gain=1.0, good=False),
        *(rare_losses(*found) for found in RARE_LOSSES),
    ]
    if world.policy.guards:
        truths.append(Truth("gain of 0.2 sd, a guard loses twice its margin", (0.2,), guard_loss=2.0, good=False))
    if world.slices:
        truths += [slice_loss(loss) for loss in SLICE_LOSSES]
    return truths


def rare_losses(share: float, loss: float, gain: float) -> Truth:
    """Return a candidate that gains on most prompts and is worse on average."""
    name = f"{100 * share:g} % of prompts lose {loss:g} sd, others gain {gain:g}"
    return Truth(name, (gain,), rare_share=share, rare_gain=-loss, good=False)


def slice_loss(loss: float) -> Truth:
    """Return a candidate that is better except in one slice."""
    return Truth(f"gain of 0.2 sd, one slice loses {loss:g}", (0.2,), slice_gain=-loss, good=False)


def operating_curve(
    world: World,
    truths: Sequence[Truth],
    *,
    simulations: int,
    seed: int = 0,
    after: Callable[[str], None] = lambda name: None,
) -> list[Outcome]:
    """Return the gate's verdicts on `simulations` evaluations of each kind of candidate."""
    outcomes = []
    for number, truth in enumerate(truths):
        rng = np.random.default_rng([seed, number])
        decisions = [_simulate(world, truth, rng) for _ in range(simulations)]
        verdicts = [decision.verdict for decision in decisions]
        promoted = verdicts.count("promote")
        low, high = share_interval(promoted, simulations, confidence=0.95)
        outcomes.append(
            Outcome(
                truth=truth.name,
                good=truth.good,
                simulations=simulations,
                promoted=promoted / simulations,
                promoted_low=low,
                promoted_high=high,
                verdicts={verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
                faults=dict(Counter(fault for decision in decisions for fault in _faults(decision))),
            )
        )
        after(truth.name)
    return outcomes


def _faults(decision: GateDecision) -> list[str]:
    """Return the explanations of the checks that made the evidence unusable: failed preconditions and checks without a
    measurement."""
    if decision.verdict != "invalid":
        return []
    failed = [check for check in decision.checks if check.decisive and not check.passed]
    return [check.explanation for check in failed if check.family == "evidence" or check.measured is None]


def _simulate(world: World, truth: Truth, rng: np.random.Generator) -> GateDecision:
    """Simulate one evaluation of one candidate and return the gate's decision."""
    differences = _draw_differences(world, truth, rng)
    scores = _grids(world, differences, rng)
    spec = _spec(world, trained_on=truth.trained_on_gain is not None)
    comparisons = _comparisons(world, scores, differences)
    report = EvalReport(
        uri="simulated",
        spec=spec,
        scores_digest=_digest("scores"),
        num_prompts=world.num_prompts,
        comparisons=comparisons,
        calibrations=tuple(_calibration(judge.name, world) for judge in spec.judges),
    )
    evidence = Evidence(
        report=report,
        scores=scores,
        policy=world.policy,
        candidate=_candidate(spec),
        champion_version=None,
        champion_weights_digest=spec.base_digest,
    )
    return decide(evidence)


def _draw_differences(world: World, truth: Truth, rng: np.random.Generator) -> dict[str, Floats]:
    """Map each scorer to the candidate's true gain per prompt: standard deviation 1 for judges, guards in their
    units."""
    prompts = world.num_prompts
    shared_P, drawn = rng.standard_normal(prompts), {}
    common, own = world.correlation**0.5, (1 - world.correlation) ** 0.5
    for index, judge in enumerate(world.judges):
        drawn[judge] = truth.gain(index) + common * shared_P + own * rng.standard_normal(prompts)
        if truth.slice_gain is not None and world.slices:
            first = _slice_of_prompts(world) == 0
            drawn[judge][first] += truth.slice_gain - truth.gain(index)
    if truth.rare_share:
        failed_P = rng.random(prompts) < truth.rare_share
        for index, judge in enumerate(world.judges):
            drawn[judge][failed_P] += truth.rare_gain - truth.gain(index)
    if truth.trained_on_gain is not None:
        drawn[TRAINED_ON] = truth.trained_on_gain + common * shared_P + own * rng.standard_normal(prompts)
    losing = min(world.policy.guards, default="")
    for name in world.measured:
        rule = world.policy.guards.get(name)
        sign = 1 if rule is None or rule.better == "higher" else -1
        loss = sign * truth.guard_loss * _margin(rule) if rule and name == losing else 0.0
        drawn[name] = world.spread(name) * rng.standard_normal(prompts) - loss
    return drawn


def _margin(rule: GuardRule) -> float:
    """Return a guard's tolerated loss in its units; without a margin the unit is irrelevant."""
    return rule.margin or LEVEL * (rule.relative_margin or 0.0) or 1.0


def _level(name: str, world: World) -> float:
    """Return a champion's mean score that is well within a guard's absolute limits."""
    rule, far = world.policy.guards.get(name), 10 * world.spread(name)
    if rule is None:
        return LEVEL
    if rule.threshold is not None:
        return rule.threshold + (far if rule.better == "higher" else -far)
    if rule.floor is not None:
        return rule.floor + far if rule.ceiling is None else (rule.floor + rule.ceiling) / 2
    return LEVEL if rule.ceiling is None else rule.ceiling - far


def _slice_of_prompts(world: World) -> Integers:
    """Return the slice number of each prompt, by shares, in index order."""
    edges = np.cumsum(list(world.slices.values())) / sum(world.slices.values())
    places = np.searchsorted(edges, (np.arange(world.num_prompts) + 0.5) / world.num_prompts)
    return np.asarray(places, dtype=np.int64)


def _grids(world: World, differences: Mapping[str, Floats], rng: np.random.Generator) -> ScoreGrids:
    """Return the grids of candidate and champion, with seed noise that does not change the drawn mean differences.

    Scored against other prompts no gain remains, only noise, as with a judge of prompt match.
    """
    prompts_P, seeds_S = np.arange(world.num_prompts), np.asarray(world.seeds)
    grids: dict[tuple[str, str], SeedGrid] = {}
    shared_PS = rng.standard_normal((world.num_prompts, len(seeds_S)))
    common, own = world.correlation**0.5, (1 - world.correlation) ** 0.5
    for scorer, gain_P in differences.items():
        noise_PS = common * shared_PS + own * rng.standard_normal(shared_PS.shape)
        scale = SEED_SPREAD * (world.spread(scorer) if scorer in world.measured else 1.0)
        noise_PS = scale * (noise_PS - noise_PS.mean(axis=1, keepdims=True))
        champion_PS = _level(scorer, world) + noise_PS
        if world.in_spreads(scorer):
            champion_PS += rng.standard_normal((world.num_prompts, 1))
        grids[scorer, "champion"] = SeedGrid(prompts_P, seeds_S, champion_PS)
        grids[scorer, "candidate"] = SeedGrid(prompts_P, seeds_S, champion_PS + gain_P[:, None])
        wrong_P = rng.standard_normal((2, world.num_prompts, 1))
        for role, values in zip(("candidate_shuffled", "champion_shuffled"), wrong_P, strict=True):
            grids[scorer, role] = SeedGrid(prompts_P, seeds_S[:1], 15 + SEED_SPREAD * values)
    names = list(world.slices)
    categories = dict(enumerate(names[i] for i in _slice_of_prompts(world))) if names else {}
    return ScoreGrids(grids, categories)


def _comparisons(world: World, scores: ScoreGrids, differences: Mapping[str, Floats]) -> tuple[Comparison, ...]:
    """Return the report's figures. The champion is the base, so both opponents have the same figures."""
    found = []
    for scorer in differences:
        own = compare_differences(
            scores.differences(scorer),
            scorer=scorer,
            against="champion",
            tie_threshold=world.tie_thresholds.get(scorer, 0.0),
            confidence=world.confidence,
        )
        found += [own, own.model_copy(update={"against": "base"})]
    return tuple(found)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _judge(name: str, sources: tuple[str, ...]) -> Judge:
    return Judge(name=name, scorer=ClipPreference(), weights_digest=_digest(name), trained_on=sources)


def _spec(world: World, *, trained_on: bool) -> EvalSpec:
    base = _digest("base")
    judges = [_judge(name, (f"labels of {name}",)) for name in world.judges]
    return EvalSpec(
        candidate=ModelRef(kind="lora", weights_digest=_digest("candidate")),
        champion=ModelRef(kind="base", weights_digest=base),
        base_digest=base,
        backbone=StableDiffusion(resolution=64),
        prompts_digest=_digest("prompts"),
        seeds=world.seeds,
        sampler=Sampler(),
        judges=(*judges, *([_judge(TRAINED_ON, ("pairs",))] if trained_on else [])),
        guards=tuple(Judge(name=name, scorer=ClipScore(), weights_digest=_digest(name)) for name in world.measured),
        snapshot_digest=_digest("snapshot"),
        confidence=world.confidence,
        tie_thresholds=dict(world.tie_thresholds),
    )


def _calibration(judge: str, world: World) -> Calibration:
    """Return a perfect calibration: the curve is about the votes, not about who may vote."""
    pairs = max(1000, world.policy.minimum_calibration_pairs)
    return Calibration(judge=judge, num_pairs=pairs, num_human_ties=0, accuracy=1, accuracy_low=1, accuracy_high=1)


def _candidate(spec: EvalSpec) -> CandidateVersion:
    return CandidateVersion(
        model="simulated",
        version=1,
        kind="lora",
        weights_digest=spec.candidate.weights_digest,
        weights_uri="simulated",
        spec_digest=_digest("training"),
        base_digest=spec.base_digest,
        snapshot_digest=spec.snapshot_digest,
        trained_on=("pairs",),
        run_id="simulated",
    )


def curve_table(outcomes: Sequence[Outcome]) -> str:
    """Format the curve as a Markdown table."""
    lines = ["| candidate | promoted | 95 % interval | verdicts |", "|---|---|---|---|"]
    for o in outcomes:
        verdicts = ", ".join(f"{name} {count}" for name, count in o.verdicts.items())
        lines.append(
            f"| {o.truth} | {100 * o.promoted:.1f} % | {100 * o.promoted_low:.1f} to {100 * o.promoted_high:.1f}"
            f" | {verdicts} |"
        )
    return "\n".join(lines)


def fault_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line per reason for invalid evaluations; empty when none was invalid."""
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
    total = sum(outcome.simulations for outcome in outcomes)
    return [f"invalid in {count} of {total}: {fault}" for fault, count in faults.most_common()]
