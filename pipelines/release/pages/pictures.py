"""Encode the images of an evaluation's folder as data URIs, so that the page needs no other file."""

import json
from dataclasses import dataclass
from pathlib import Path

from alignment.contracts.jobs import CONTACT_SHEET_PROMPTS_FILE, EXTREMES_FILE
from alignment.files.paths import resolve_below
from alignment.statistics.best_and_worst import Extreme
from pipelines.pages.page import data_uri


@dataclass(frozen=True)
class _Example:
    """One prompt with the images of champion and candidate."""

    prompt: str
    differences: tuple[tuple[str, str], ...]
    champion: str
    candidate: str


def sheet_prompts(folder: Path) -> list[str]:
    """Return the prompts of the contact sheet's rows, from the top; empty when the evaluation wrote none."""
    path = folder / CONTACT_SHEET_PROMPTS_FILE
    return [str(prompt) for prompt in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def extremes_by_end(folder: Path) -> list[tuple[str, list[_Example]]]:
    """Return titled groups of prompts; empty when the evaluation wrote none. ValueError for an image outside the
    folder."""
    path = folder / EXTREMES_FILE
    if not path.is_file():
        return []
    found = [Extreme.model_validate(line) for line in json.loads(path.read_text(encoding="utf-8"))]
    groups = [
        (title, [_example(e, folder) for e in found if e.end == end])
        for end, title in (("gain", "Largest gains"), ("loss", "Largest losses"))
    ]
    return [(title, examples) for title, examples in groups if examples]


def _example(extreme: Extreme, folder: Path) -> _Example:
    source = folder / EXTREMES_FILE
    return _Example(
        prompt=extreme.prompt,
        differences=tuple((judge, f"{value:+.3g}") for judge, value in extreme.differences.items()),
        champion=picture(folder, extreme.champion_image, source),
        candidate=picture(folder, extreme.candidate_image, source),
    )


def picture(folder: Path, name: str, source: Path | str = "") -> str:
    """Return a PNG of the evaluation's folder as a data URI; empty when there is none.

    ValueError when the name, which came from `source`, leads out of the folder: the page would publish another file.
    """
    path = resolve_below(folder, name, source)
    return data_uri(path.read_bytes(), "image/png") if path.is_file() else ""


def svg_uri(content: bytes) -> str:
    """Return an SVG drawing as a data URI."""
    return data_uri(content, "image/svg+xml")
