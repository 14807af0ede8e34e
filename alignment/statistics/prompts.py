"""The prompts file of an evaluation: tab separated, UTF-8, header `prompt<TAB>category`, and `<TAB>group` if wanted.
Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.contracts.prompt_text import prompt_fault
from alignment.statistics.normal_text import normal_prompt

HEADER = ["prompt", "category"]
GROUP = "group"
"""Optional third column: prompts with the same name there count as one prompt in the statistics."""
NAMED = 5
"""Number of prompts that an error names."""


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt; its index in the file names its images."""

    index: int
    text: str
    category: str
    group: str | None = None
    """Name of its group of near-duplicates, empty for none; None where the file has no such column."""


def read_prompts(path: Path) -> list[EvalPrompt]:
    """Read every prompt in file order; see `parse_prompts`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"The prompts file {path} cannot be read as UTF-8 text: {error}.") from error
    return parse_prompts(content, str(path))


def parse_prompts(content: bytes, origin: str) -> list[EvalPrompt]:
    """Parse every prompt in file order. Raises ValueError naming each bad line and each repeated prompt.

    The prompt is the unit of every interval, so a repeated prompt would count as evidence that was never collected.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompts file {origin} cannot be read as UTF-8 text: {error}.") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    header = lines[0].split("\t")
    if header not in (HEADER, [*HEADER, GROUP]):
        raise ValueError(
            f"The prompts file {origin} must begin with the header 'prompt<TAB>category', or"
            " 'prompt<TAB>category<TAB>group'."
        )
    rows = [line.split("\t") for line in lines[1:]]
    bad = [number for number, row in enumerate(rows, start=2) if len(row) != len(header) or not row[0].strip()]
    if bad or not rows:
        where = f"lines {', '.join(map(str, bad[:10]))} are" if bad else "there are no prompts; each line is"
        raise ValueError(
            f"The prompts file {origin}: {where} not '{'<TAB>'.join(header)}' with a prompt that is not empty."
        )
    faults = [
        (number, fault) for number, row in enumerate(rows, start=2) for part in row if (fault := prompt_fault(part))
    ]
    if faults:
        named = "; ".join(f"line {number} {fault}" for number, fault in faults[:NAMED])
        raise ValueError(
            f"The prompts file {origin} has {len(faults)} texts that are no prompts: {named}. Remove them."
        )
    prompts = [EvalPrompt(index, *row) for index, row in enumerate(rows)]
    _check_distinct(prompts, origin)
    _check_groups(prompts, origin)
    return prompts


def _check_groups(prompts: Sequence[EvalPrompt], origin: str) -> None:
    """Raise ValueError for groups in several categories: a group is one prompt, which belongs to one slice."""
    categories: dict[str, set[str]] = {}
    for prompt in prompts:
        if prompt.group:
            categories.setdefault(prompt.group, set()).add(prompt.category)
    torn = [(group, own) for group, own in categories.items() if len(own) > 1]
    if torn:
        named = "; ".join(f"{group!r} in {', '.join(map(repr, sorted(own)))}" for group, own in torn[:NAMED])
        raise ValueError(
            f"The prompts file {origin} has {len(torn)} groups with prompts of several categories: {named}. Give each"
            " category another group name."
        )


def _check_distinct(prompts: Sequence[EvalPrompt], origin: str) -> None:
    lines: dict[str, list[int]] = {}
    for prompt in prompts:
        lines.setdefault(normal_prompt(prompt.text), []).append(prompt.index + 2)
    repeated = [(own, prompts[own[0] - 2].text) for own in lines.values() if len(own) > 1]
    if repeated:
        named = "; ".join(f"{text!r} on lines {', '.join(map(str, own[:10]))}" for own, text in repeated[:NAMED])
        more = f" (and {len(repeated) - NAMED} more)" if len(repeated) > NAMED else ""
        raise ValueError(
            f"The prompts file {origin} has {len(repeated)} repeated prompts, spelling and punctuation aside:"
            f" {named}{more}. Each prompt counts as independent evidence, so keep one line of each;"
            " `plumbline prompts import FILE --format tsv --out NEW` does."
        )
