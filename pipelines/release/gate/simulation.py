"""The operating curve of a policy: how often the gate promotes candidates whose true quality is known.

Synthetic score tables of the worlds in `simulated_worlds.py` go through `verdict.decide`, the code that decides on real
candidates. Judges' differences over prompts are normal with standard deviation 1 and a common correlation. Guards are
independent, and their standard deviation makes the margin a stated number of standard deviations. Seeds scatter around
each prompt's mean. Shape letters: P prompts, S seeds.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
from alignment.statistics.tries import Tries
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.gate.simulated_worlds import LEVEL, Truth, World, margin_of
from pipelines.release.gate.verdict import Evidence, decide

SEED_SPREAD = 0.5
"""Standard deviation of one image's score around its prompt's mean, in standard deviations of the differences."""

TRAINED_ON = "trained_on"
"""Name of the simulated judge that the candidate learnt from."""


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


def false_promotions_per_quarter(
    world: World, *, candidates: int, quarters: int, likeness: float, seed: int = 0
) -> tuple[float, float, float]:
    """Return the share of quarters with a promotion, and its Wilson interval at 95 %, where no candidate has a gain.

    A quarter has `candidates` candidates against one champion. Their differences correlate with `likeness`, because
    they share the champion's images and the prompts.
    """
    rng, bad = np.random.default_rng(seed), 0
    for _ in range(quarters):
        shared = _draw_differences(world, Truth("none"), rng)
        tries = Tries("simulated")
        for _ in range(candidates):
            own = _draw_differences(world, Truth("none"), rng)
            drawn = {n: likeness**0.5 * shared[n] + (1 - likeness) ** 0.5 * own[n] for n in shared}
            verdict = _decide(replace(world, tries=tries), drawn, rng).verdict
            tries = tries._replace(earlier=tries.earlier + 1, promoted=tries.promoted + (verdict == "promote"))
        bad += tries.promoted > 0
    return bad / quarters, *share_interval(bad, quarters, confidence=0.95)


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
    return _decide(world, _draw_differences(world, truth, rng), rng)


def _decide(world: World, differences: Mapping[str, Floats], rng: np.random.Generator) -> GateDecision:
    """Return the gate's decision on one candidate with these true differences."""
    scores = _grids(world, differences, rng)
    spec = _spec(world, trained_on=TRAINED_ON in differences)
    comparisons = _comparisons(world, scores, differences)
    report = EvalReport(
        uri="simulated",
        spec=spec,
        scores_digest=_digest("scores"),
        num_prompts=world.num_prompts,
        num_groups=len(set(world.groups.tolist())) if world.group_sizes else None,
        comparisons=comparisons,
        calibrations=tuple(_calibration(judge.name, world, rng) for judge in spec.judges),
    )
    evidence = Evidence(
        report=report,
        scores=scores,
        policy=world.policy,
        candidate=_candidate(spec),
        champion_version=None,
        champion_weights_digest=spec.base_digest,
        tries=world.tries,
    )
    return decide(evidence)


def _draw_differences(world: World, truth: Truth, rng: np.random.Generator) -> dict[str, Floats]:
    """Map each scorer to the candidate's true gain per prompt: standard deviation 1 for judges, guards in their
    units."""
    prompts = world.num_prompts
    shared_P, drawn = _unit(world, rng), {}
    common, own = world.correlation**0.5, (1 - world.correlation) ** 0.5
    for index, judge in enumerate(world.judges):
        drawn[judge] = truth.gain(index) + common * shared_P + own * _unit(world, rng)
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
        loss = sign * truth.guard_loss * margin_of(rule) if rule and name == losing else 0.0
        drawn[name] = world.spread(name) * rng.standard_normal(prompts) - loss
    first_N = _first_prompts(world)
    return {name: gains_N[first_N] for name, gains_N in drawn.items()}


def _unit(world: World, rng: np.random.Generator) -> Floats:
    """Draw one difference per prompt, with mean 0 and standard deviation 1."""
    if world.heavy_tails:
        return rng.standard_t(3, world.num_prompts) / 3**0.5
    return rng.standard_normal(world.num_prompts)


def _first_prompts(world: World) -> Integers:
    """Return for each prompt the first prompt of its group."""
    _, first_P, numbers_N = np.unique(world.groups, return_index=True, return_inverse=True)
    return np.asarray(first_P[numbers_N], dtype=np.int64)


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
    prompts_N, seeds_S = np.arange(world.num_prompts), np.asarray(world.seeds)
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
        grids[scorer, "champion"] = SeedGrid(prompts_N, seeds_S, champion_PS)
        grids[scorer, "candidate"] = SeedGrid(prompts_N, seeds_S, champion_PS + gain_P[:, None])
        wrong_P = rng.standard_normal((2, world.num_prompts, 1))
        for role, values in zip(("candidate_shuffled", "champion_shuffled"), wrong_P, strict=True):
            grids[scorer, role] = SeedGrid(prompts_N, seeds_S[:1], 15 + SEED_SPREAD * values)
    if world.group_sizes:
        grids = {name: replace(grid, groups_N=world.groups) for name, grid in grids.items()}
    names, slices_N = list(world.slices), _slice_of_prompts(world)
    categories = {int(first): names[slices_N[first]] for first in np.unique(_first_prompts(world))} if names else {}
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


def _judge(name: str, sources: tuple[str, ...], family: str | None = None) -> Judge:
    scorer = ClipPreference()
    return Judge(
        name=name, scorer=scorer, weights_digest=_digest(name), trained_on=sources, encoder_family=family or name
    )


def _spec(world: World, *, trained_on: bool) -> EvalSpec:
    base = _digest("base")
    families = world.families or world.judges
    judges = [_judge(name, (f"labels of {name}",), own) for name, own in zip(world.judges, families, strict=True)]
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


def _calibration(judge: str, world: World, rng: np.random.Generator) -> Calibration:
    """Return a judge's measured agreement with people."""
    pairs = world.calibration_pairs
    share = low = high = world.accuracy
    if pairs:
        right = int(rng.binomial(pairs, world.accuracy))
        share, (low, high) = right / pairs, share_interval(right, pairs, confidence=world.confidence)
    return Calibration(
        judge=judge,
        num_pairs=pairs or max(1000, world.policy.minimum_calibration_pairs),
        num_human_ties=0,
        accuracy=share,
        accuracy_low=low,
        accuracy_high=high,
    )


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
