"""`plumbline gate simulate`: turn a project, or a policy file, into a simulated world and report on it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignment.config import read_toml, validate
from alignment.statistics.prompt_groups import group_prompts
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.file import load_project
from pipelines.project.gate import GatePolicy
from pipelines.records.heldout_prompts import evaluation_prompts
from pipelines.release.gate import decision_log
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.evidence import score_columns
from pipelines.release.gate.margin_scale import MAXIMUM_MARGIN_SCALE, margin_scales, tie_threshold_scales
from pipelines.release.gate.simulated_worlds import World, standard_truths
from pipelines.release.gate.simulation import Outcome, operating_curve
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

DEFAULT_PROMPTS = 1632
"""The number of PartiPrompts, for which the default policy was chosen."""
DEFAULT_SLICES = 12
DEFAULT_JUDGES = 3
ASSUMED_MARGIN_SCALE = 0.15
"""A guard's margin in standard deviations of its difference where no evaluation measured it: a strict assumption."""


def read_world(
    path: Path, *, settings: Settings, num_prompts: int | None = None, margin_scale: float | None = None
) -> World:
    """Read the simulated world of a project (its policy, judges, guards, prompts and slices), or of a policy alone.

    A policy file holds the fields of [gate], in that table or at the top level; three judges and 1632 prompts in 12
    slices are assumed for it. `margin_scale` is every guard's margin in standard deviations of its difference over
    prompts. Without it, the margins are scaled by the project's last evaluation; without an evaluation, 0.15 is
    assumed. Tie thresholds are simulated only if that evaluation measured the judges' standard deviations. ValueError
    names every bad field and argument.
    """
    _check_world(num_prompts, margin_scale)
    data = _toml(path)
    if "extends" in data or {"name", "base", "evaluation"} <= set(data):
        project = load_project(path)
        prompts = evaluation_prompts(project, open_store(settings.store_uri, settings))
        alike = zip(prompts, group_prompts(prompts), strict=True)
        counts = Counter(prompt.category for prompt, first in alike if prompt.index == first)
        slices = {name: float(count) for name, count in sorted(counts.items())} if any(counts) else {}
        scores, names = _last_scores(Workspace(project, settings)), [judge.name for judge in project.evaluation.judges]
        ties = tie_threshold_scales(project.evaluation.tie_thresholds, scores)
        return World(
            policy=project.gate,
            num_prompts=num_prompts or counts.total(),
            num_judges=len(names),
            slices=slices,
            guards=tuple(guard.name for guard in project.evaluation.guards),
            guard_margin_scales=margin_scales(project.gate, scores) if margin_scale is None else {},
            tie_thresholds={f"judge_{i + 1}": ties[name] for i, name in enumerate(names) if name in ties},
            seeds=project.evaluation.seeds,
            confidence=project.evaluation.confidence,
            margin_scale=margin_scale or ASSUMED_MARGIN_SCALE,
        )
    policy = validate(GatePolicy, data.get("gate", data), what=str(path))
    slices = {f"slice_{index + 1}": 1.0 for index in range(DEFAULT_SLICES)}
    judges = max(DEFAULT_JUDGES, policy.voting_judges)
    return World(
        policy=policy,
        num_prompts=num_prompts or DEFAULT_PROMPTS,
        num_judges=judges,
        slices=slices,
        margin_scale=margin_scale or ASSUMED_MARGIN_SCALE,
    )


def _check_world(num_prompts: int | None, margin_scale: float | None) -> None:
    """Raise ValueError for arguments out of range."""
    faults = []
    if num_prompts is not None and num_prompts < 2:
        faults.append(f"--prompts is {num_prompts}, but a comparison needs at least 2.")
    if margin_scale is not None and not 0 < margin_scale <= MAXIMUM_MARGIN_SCALE:
        faults.append(
            f"--margin-spreads is {margin_scale:g}, but a guard's margin in standard deviations must be above 0 and"
            f" at most {MAXIMUM_MARGIN_SCALE:g}."
        )
    if faults:
        raise ValueError(" ".join(faults))


def _last_scores(workspace: Workspace) -> ScoreGrids:
    """Read the score table of the project's last decision; empty without a decision or without its evaluation."""
    decision = decision_log.last_decision(workspace)
    store = workspace.store
    if decision is None or store.read_manifest(decision.evaluation_uri) is None:
        return ScoreGrids({})
    return read_grids(score_columns(decision.evaluation_uri, workspace.settings))


def world_sentences(world: World, simulations: int) -> list[str]:
    """Describe the simulated world: its size, and which of its scales were measured or assumed."""
    lines = [
        f"{world.num_judges} judges (correlation {world.correlation:g}), {world.num_prompts} prompts in"
        f" {len(world.slices)} slices, {simulations} simulations of each candidate with the gate's own code."
    ]
    measured = {name: world.guard_margin_scales[name] for name in world.measured if name in world.guard_margin_scales}
    if measured:
        values = ", ".join(f"{name} {ratio:.3g}" for name, ratio in measured.items())
        lines.append(f"Margins in standard deviations of the difference, measured by the last evaluation: {values}.")
    assumed = [name for name in world.measured if name not in measured]
    if assumed:
        lines.append(
            f"Margins assumed to be {world.margin_scale:g} standard deviations (--margin-spreads):"
            f" {', '.join(assumed)}."
        )
    if world.tie_thresholds:
        values = ", ".join(f"{name} {ratio:.3g}" for name, ratio in world.tie_thresholds.items())
        lines.append(f"Tie thresholds in standard deviations of the difference: {values}.")
    return lines


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a projects/NAME.toml, or a TOML file with the fields of [gate].")
    return read_toml(path)


def simulate(world: World, *, simulations: int, seed: int, after: Callable[[str], None]) -> list[Outcome]:
    """Return the operating curve over the standard kinds of candidate."""
    if simulations < 1:
        raise ValueError(
            f"--simulations is {simulations}, but at least 1 is needed; 500 give bounds of about 2 percentage points."
        )
    return operating_curve(world, standard_truths(world), simulations=simulations, seed=seed, after=after)
