"""What people ask of a gate beside its verdict: how it will behave, why it decided, how noisy its judges are."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignment.config import read_toml, validate
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.file import load_project
from pipelines.project.gate import GatePolicy
from pipelines.release.gate import decision_log
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.evidence import score_columns
from pipelines.release.gate.margin_scale import MOST_SPREADS, margins_in_spreads, thresholds_in_spreads
from pipelines.release.gate.simulation import Outcome, World, operating_curve, standard_truths
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.workspace import Workspace

DEFAULT_PROMPTS = 1632
"""PartiPrompts, which the default policy is made for."""
DEFAULT_SLICES = 12
DEFAULT_JUDGES = 3
ASSUMED_MARGIN_SPREADS = 0.15
"""A guard's margin in standard deviations of its difference where nothing was measured: a strict one."""


# --- simulate -------------------------------------------------------------------------------------------------------


def read_world(
    path: Path, *, settings: Settings, num_prompts: int | None = None, margin_spreads: float | None = None
) -> World:
    """The simulated world of a project (its policy, judges, guards, prompts and slices), or of a policy alone.

    A policy file holds the fields of [gate], in that table or at the top; three judges and 1632 prompts in 12 slices
    are assumed for it. `margin_spreads` is every guard's margin in standard deviations of its difference over prompts;
    without it the project's last evaluation tells each guard's, and where there is none 0.15 is assumed. Tie thresholds
    count where that evaluation tells the judges' spread. ValueError names every bad field and argument.
    """
    _check_world(num_prompts, margin_spreads)
    data = _toml(path)
    if "extends" in data or {"name", "base", "evaluation"} <= set(data):
        project = load_project(path)
        data_prompts = open_store(settings.store_uri, settings).read_bytes(project.evaluation.prompts)
        rows = csv.DictReader(io.StringIO(data_prompts.decode("utf-8-sig")), delimiter="\t", quoting=csv.QUOTE_NONE)
        counts = Counter(row.get("category") or "" for row in rows)
        slices = {name: float(count) for name, count in sorted(counts.items())} if any(counts) else {}
        scores, names = _last_scores(Workspace(project, settings)), [judge.name for judge in project.evaluation.judges]
        ties = thresholds_in_spreads(project.evaluation.tie_thresholds, scores)
        return World(
            policy=project.gate,
            num_prompts=num_prompts or counts.total(),
            num_judges=len(names),
            slices=slices,
            guards=tuple(guard.name for guard in project.evaluation.guards),
            guard_spreads=margins_in_spreads(project.gate, scores) if margin_spreads is None else {},
            tie_thresholds={f"judge_{i + 1}": ties[name] for i, name in enumerate(names) if name in ties},
            seeds=project.evaluation.seeds,
            confidence=project.evaluation.confidence,
            margin_spreads=margin_spreads or ASSUMED_MARGIN_SPREADS,
        )
    policy = validate(GatePolicy, data.get("gate", data), what=str(path))
    slices = {f"slice_{index + 1}": 1.0 for index in range(DEFAULT_SLICES)}
    judges = max(DEFAULT_JUDGES, policy.voting_judges)
    return World(
        policy=policy,
        num_prompts=num_prompts or DEFAULT_PROMPTS,
        num_judges=judges,
        slices=slices,
        margin_spreads=margin_spreads or ASSUMED_MARGIN_SPREADS,
    )


def _check_world(num_prompts: int | None, margin_spreads: float | None) -> None:
    """ValueError for arguments that make no world."""
    faults = []
    if num_prompts is not None and num_prompts < 2:
        faults.append(f"{num_prompts} prompts cannot be compared. Give --prompts 2 or more.")
    if margin_spreads is not None and not 0 < margin_spreads <= MOST_SPREADS:
        faults.append(
            f"A guard's margin cannot be {margin_spreads:g} standard deviations of its difference. Give"
            f" --margin-spreads more than 0, {MOST_SPREADS:g} at most."
        )
    if faults:
        raise ValueError(" ".join(faults))


def _last_scores(workspace: Workspace) -> ScoreGrids:
    """Score table of the project's last decision; none where nothing was decided or its evaluation is gone."""
    decision = decision_log.last_decision(workspace)
    store = workspace.store
    if decision is None or store.read_manifest(decision.evaluation_uri) is None:
        return ScoreGrids({})
    return read_grids(score_columns(decision.evaluation_uri, workspace.settings))


def world_sentences(world: World, simulations: int) -> list[str]:
    """What was simulated, and what was measured or assumed of it."""
    lines = [
        f"{world.num_judges} judges (correlation {world.correlation:g}), {world.num_prompts} prompts in"
        f" {len(world.slices)} slices, {simulations} simulations each through the gate itself."
    ]
    measured = {name: world.guard_spreads[name] for name in world.measured if name in world.guard_spreads}
    if measured:
        told = ", ".join(f"{name} {ratio:.3g}" for name, ratio in measured.items())
        lines.append(f"Margins in standard deviations of a difference, as the last evaluation measured them: {told}.")
    assumed = [name for name in world.measured if name not in measured]
    if assumed:
        lines.append(
            f"Taken to be {world.margin_spreads:g} standard deviations (--margin-spreads): the margin of"
            f" {', '.join(assumed)}."
        )
    if world.tie_thresholds:
        told = ", ".join(f"{name} {ratio:.3g}" for name, ratio in world.tie_thresholds.items())
        lines.append(f"Tie thresholds in standard deviations of a difference: {told}.")
    return lines


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a projects/NAME.toml, or a TOML file with the fields of [gate].")
    return read_toml(path)


def simulate(world: World, *, simulations: int, seed: int, after: Callable[[str], None]) -> list[Outcome]:
    """The operating curve over the standard kinds of candidate."""
    if simulations < 1:
        raise ValueError(
            f"{simulations} simulations say nothing. Ask for at least 1; 500 give bounds of some 2 points."
        )
    return operating_curve(world, standard_truths(world), simulations=simulations, seed=seed, after=after)


# --- explain --------------------------------------------------------------------------------------------------------


# --- people ---------------------------------------------------------------------------------------------------------


# --- A/A ------------------------------------------------------------------------------------------------------------
