"""What people ask of a gate beside its verdict: how it will behave, why it decided, how noisy its judges are."""

import csv
import io
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignment.config import read_toml, validate
from alignment.contracts.evaluation import EvalReport
from alignment.statistics.score_grids import ScoreGrids
from alignment.statistics.seed_noise import SeedNoise, seed_noise
from pipelines.contracts import GateDecision
from pipelines.human_votes import PeoplesWinRate, read_votes, win_rates
from pipelines.policy import GatePolicy
from pipelines.project import Project, load_project
from pipelines.release import decisions, evidence
from pipelines.release.simulation import Outcome, World, operating_curve, standard_truths
from pipelines.release.spreads import MOST_SPREADS, margins_in_spreads, thresholds_in_spreads
from pipelines.release.verdict import SCORES_FILE, read_columns
from pipelines.settings import Settings
from pipelines.storage import open_store

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
        scores, names = _last_scores(project, settings), [judge.name for judge in project.evaluation.judges]
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


def _last_scores(project: Project, settings: Settings) -> ScoreGrids:
    """Score table of the project's last decision; none where nothing was decided or its evaluation is gone."""
    decision = decisions.last_decision(project, settings)
    store = open_store(settings.store_uri, settings)
    if decision is None or store.read_manifest(decision.evaluation_uri) is None:
        return ScoreGrids({})
    return evidence.read_grids(read_columns(store.read_bytes(f"{decision.evaluation_uri}/{SCORES_FILE}")))


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


def find_decision(path: Path, settings: Settings) -> GateDecision:
    """A decision from its JSON file, or the last one of a project."""
    if path.suffix == ".toml":
        found = decisions.last_decision(load_project(path), settings)
        if found is None:
            raise ValueError(f"{path.stem}: nothing was decided yet. Run `plumbline gate {path}`.")
        return found
    try:
        return GateDecision.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. Give a decision's JSON file or a project."
        ) from error
    except ValidationError as error:
        raise ValueError(f"{path} holds no gate decision: {error.error_count()} fields do not fit.") from error


# --- people ---------------------------------------------------------------------------------------------------------


def peoples_win_rates(path: Path, votes: Path, settings: Settings) -> list[PeoplesWinRate]:
    """A decision's judges beside people's votes on some of its prompts; ValueError when its evaluation is gone."""
    decision = find_decision(path, settings)
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(decision.evaluation_uri)
    if manifest is None:
        raise ValueError(f"The evaluation {decision.evaluation_uri} is no longer in the store. Evaluate again.")
    columns = read_columns(store.read_bytes(f"{decision.evaluation_uri}/{SCORES_FILE}"))
    own = (columns[name] for name in ("role", "prompt_index", "prompt"))
    prompts = {int(str(i)): str(text) for role, i, text in zip(*own, strict=True) if role == "candidate"}
    return win_rates(
        decision,
        EvalReport.model_validate(manifest.value),
        evidence.read_grids(columns),
        prompts=prompts,
        votes=read_votes(votes),
    )


# --- A/A ------------------------------------------------------------------------------------------------------------


def noise_of(report: EvalReport, settings: Settings) -> list[SeedNoise]:
    """Each scorer's noise in an A/A evaluation: the champion's first half of seeds against its second half."""
    store = open_store(settings.store_uri, settings)
    grids = evidence.read_grids(read_columns(store.read_bytes(f"{report.uri}/{SCORES_FILE}")))
    spec, half = report.spec, len(report.spec.seeds) // 2
    return [
        seed_noise(
            scorer.name,
            grids.grid(scorer.name, "champion"),
            seeds=spec.seeds[:half],
            other_seeds=spec.seeds[half:],
            confidence=spec.confidence,
        )
        for scorer in (*spec.judges, *spec.guards)
    ]


def noise_sentences(noise: list[SeedNoise]) -> list[str]:
    """What the A/A run says of each scorer."""
    return [
        f"{own.scorer}: with other seeds {own.num_prompts} prompts differ by {own.median_absolute_difference:.3g}"
        f" (median), spread {own.spread:.3g}; mean {own.mean_difference_low:.3g} to {own.mean_difference_high:.3g}"
        + (
            ", which covers 0."
            if own.sound
            else ", which does not cover 0: such a run is due once in twenty, look again."
        )
        for own in noise
    ]


def tie_thresholds_toml(noise: list[SeedNoise]) -> str:
    """The line of [evaluation] that freezes the thresholds, three significant digits."""
    values = ", ".join(f"{own.scorer} = {own.median_absolute_difference:.3g}" for own in noise)
    return f"tie_thresholds = {{ {values} }}"


def write_tie_thresholds(path: Path, line: str) -> None:
    """Put the line into the project's [evaluation], instead of the one there; the file stays as it is if that fails.

    ValueError when the thresholds are written as a table of their own, or the file would not load any more.
    """
    text = path.read_text(encoding="utf-8")
    if re.search(r"^\[evaluation\.tie_thresholds\]", text, flags=re.MULTILINE):
        raise ValueError(f"{path} has a table [evaluation.tie_thresholds]. Take it out, or edit it by hand: {line}")
    head, found, rest = text.partition("\n[evaluation]\n")
    if not found:
        raise ValueError(f"{path} has no line [evaluation]. Put this under it by hand: {line}")
    end = re.search(r"^\[", rest, flags=re.MULTILINE)
    own, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    own = re.sub(r"^tie_thresholds\s*=.*\n?", "", own, flags=re.MULTILINE)
    changed = f"{head}{found}{line}\n{own}{after}"
    tomllib.loads(changed)
    path.write_text(changed, encoding="utf-8")
    try:
        load_project(path)
    except ValueError:
        path.write_text(text, encoding="utf-8")
        raise
