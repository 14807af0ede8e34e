"""Measure the noise between seeds of one model (an A/A run), and derive tie thresholds from it."""

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
    """Return each scorer's noise in an A/A evaluation: the champion's first half of seeds against its second half."""
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
    """Return one sentence per scorer on the result of the A/A run."""
    return [
        f"{own.scorer}: on {own.num_prompts} prompts, other seeds change the score by"
        f" {own.median_absolute_difference:.3g} (median of the absolute differences), standard deviation"
        f" {own.spread:.3g}; the mean change is {own.mean_difference_low:.3g} to {own.mean_difference_high:.3g}"
        + (
            ", which covers 0."
            if own.sound
            else ", which does not cover 0: this happens by chance in 1 of 20 runs; rerun with other seeds."
        )
        for own in noise
    ]


def tie_thresholds_toml(noise: list[SeedNoise]) -> str:
    """Return the line of [evaluation] that sets the thresholds, to three significant digits."""
    values = ", ".join(f"{own.scorer} = {own.median_absolute_difference:.3g}" for own in noise)
    return f"tie_thresholds = {{ {values} }}"


def write_tie_thresholds(path: Path, line: str) -> None:
    """Write the line into the project's [evaluation], in place of an existing one; on failure the file is unchanged.

    ValueError when the thresholds are in a separate table, or when the project would no longer load.
    """
    text = path.read_text(encoding="utf-8")
    if re.search(r"^\[evaluation\.tie_thresholds\]", text, flags=re.MULTILINE):
        raise ValueError(f"{path} has a table [evaluation.tie_thresholds]. Remove it, or edit it by hand: {line}")
    head, found, rest = text.partition("\n[evaluation]\n")
    if not found:
        raise ValueError(f"{path} has no line `[evaluation]`. Add that table with this line: {line}")
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
