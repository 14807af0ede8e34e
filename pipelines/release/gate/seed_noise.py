"""Noise between seeds of one model (A/A), and the tie thresholds that follow from it."""

import re
import tomllib
from pathlib import Path

from alignment.contracts.evaluation import EvalReport
from alignment.statistics.seed_noise import SeedNoise, seed_noise
from pipelines.project.file import load_project
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.gate.evidence import score_columns
from pipelines.settings import Settings


def noise_of(report: EvalReport, settings: Settings) -> list[SeedNoise]:
    """Each scorer's noise in an A/A evaluation: the champion's first half of seeds against its second half."""
    grids = read_grids(score_columns(report.uri, settings))
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
