"""Convert published and private prompt lists to the file that an evaluation reads: tab separated,
`prompt<TAB>category`.

`plumbline prompts import` normalises a list once; from then on the written file has the digest. The categories are the
slices of the gate.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.values import Sha256, ValueObject
from alignment.files.durable import write_bytes
from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.prompt_groups import count_groups
from alignment.statistics.prompts import GROUP, HEADER, parse_prompts

Format = Literal["parti", "geneval", "hps", "tsv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)


class _Entry(NamedTuple):
    """A prompt as written in its list."""

    prompt: str
    category: str
    where: str
    """Line or position, for messages."""
    group: str | None = None
    """Its group of near-duplicates; None where the list names none."""


class _PromptSet(ValueObject):
    """Result of an import."""

    uri: str
    prompts_digest: Sha256
    """sha256 of the written file: the evaluation's prompts_digest."""
    format: Format
    source: str
    source_digest: Sha256
    num_prompts: int
    num_groups: int
    """Effective number of prompts for the gate: near-duplicates count as one."""
    num_duplicates: int
    """Number of prompts left out because their normal form appeared earlier in the list."""
    num_left_out: int
    """Number of prompts left out because their category had reached `per_category`."""
    categories: dict[str, int]


def import_prompts(
    source: Path, form: str, out: Path, *, category: str = "", per_category: int | None = None
) -> _PromptSet:
    """Read a published list and write it as the evaluation's file.

    `category` names another column or field to slice by (PartiPrompts: `Challenge`). `per_category` limits the prompts
    of each category, spread evenly over the list. White space within a prompt becomes one space, since a tab would end
    the prompt. ValueError for an unknown format, an entry without its fields, an empty list, or an `out` that already
    exists with other contents.
    """
    if form not in FORMATS:
        raise ValueError(unknown_name("prompt format", form, FORMATS))
    files = _files(source)
    entries = [entry for path in files for entry in _READERS[form](path, category)]
    kept, duplicates = _distinct(entries, source)
    chosen = _spread(kept, per_category)
    content = _table_of(chosen)
    _write(out, content)
    return _PromptSet(
        uri=str(out),
        prompts_digest=hashlib.sha256(content).hexdigest(),
        format=form,
        source=str(source),
        source_digest=_digest(files),
        num_prompts=len(chosen),
        num_groups=count_groups(parse_prompts(content, str(out))),
        num_duplicates=duplicates,
        num_left_out=len(kept) - len(chosen),
        categories=dict(sorted(Counter(entry.category for entry in chosen).items())),
    )


def _table_of(entries: Sequence[_Entry]) -> bytes:
    """Return the file of these prompts, with the column `group` where the list named groups."""
    columns = [*HEADER, GROUP] if any(entry.group is not None for entry in entries) else HEADER
    rows = [(entry.prompt, entry.category, entry.group or "")[: len(columns)] for entry in entries]
    return "".join("\t".join(row) + "\n" for row in [columns, *rows]).encode()


def _write(out: Path, content: bytes) -> None:
    """Write the file, or leave an existing one with the same contents; ValueError when the contents differ."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder. Give a file, e.g. {out / 'prompts.tsv'}.")
    try:
        if out.exists() and out.read_bytes() != content:
            raise ValueError(f"{out} already contains other prompts. Give another --out, or delete it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, content)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}. Give another path.") from error


def _files(source: Path) -> list[Path]:
    """Return the file, or the JSON files of a folder, sorted."""
    found = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not found or not all(path.is_file() for path in found):
        raise ValueError(f"{source} is neither a file nor a folder of JSON files. Give the list as it was published.")
    return found


def _digest(files: list[Path]) -> str:
    """Return the sha256 of one file; of several files, the sha256 over their names and contents."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if len(files) == 1:
        return digests[files[0].name]
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _distinct(entries: list[_Entry], source: Path) -> tuple[list[_Entry], int]:
    """Return each prompt once, by its normal form; ValueError when a prompt is empty or there are none."""
    empty = [entry.where for entry in entries if not entry.prompt]
    if empty or not entries:
        where = f"empty prompts at {', '.join(empty[:5])}" if empty else "no prompts"
        raise ValueError(f"{source} contains {where}.")
    first: dict[str, _Entry] = {}
    for entry in entries:
        first.setdefault(normal_prompt(entry.prompt), entry)
    return list(first.values()), len(entries) - len(first)


def _spread(entries: list[_Entry], most: int | None) -> list[_Entry]:
    """Return at most `most` prompts of each category, evenly from the category's list, in the list's order."""
    if most is None:
        return entries
    if most < 1:
        raise ValueError(f"--per-category is {most}. Give 1 or more.")
    by_category: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        by_category.setdefault(entry.category, []).append(index)
    kept = {
        own[position * len(own) // min(most, len(own))]
        for own in by_category.values()
        for position in range(min(most, len(own)))
    }
    return [entry for index, entry in enumerate(entries) if index in kept]


# --- published layouts ----------------------------------------------------------------------------------------------


def _parti(path: Path, category: str) -> Iterator[_Entry]:
    """PartiPrompts: tab separated, header Prompt, Category, Challenge, Note."""
    yield from _table(path, prompt="Prompt", category=category or "Category")


def _tsv(path: Path, category: str) -> Iterator[_Entry]:
    yield from _table(path, prompt="prompt", category=category or "category")


def _geneval(path: Path, category: str) -> Iterator[_Entry]:
    """GenEval's metadata: one JSON object a line, with tag and prompt."""
    yield from _lines(path, category=category or "tag")


def _jsonl(path: Path, category: str) -> Iterator[_Entry]:
    yield from _lines(path, category=category or "category")


def _hps(path: Path, category: str) -> Iterator[_Entry]:
    """HPSv2: a folder with one JSON list of prompts for each style; the file name is the style."""
    if category:
        raise ValueError("Lists in the format hps have one category each, the name of their file. Omit --category.")
    try:
        prompts = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{path} is not a JSON list of prompts.")
    for number, prompt in enumerate(prompts, 1):
        yield _Entry(_one_line(prompt), path.stem, f"{path.name} entry {number}")


def _table(path: Path, *, prompt: str, category: str) -> Iterator[_Entry]:
    # Published lists do not use quoting: a quotation mark is part of its prompt.
    rows = csv.DictReader(io.StringIO(_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [name for name in (prompt, category) if name not in (rows.fieldnames or [])]
    if missing:
        has = ", ".join(rows.fieldnames or ["nothing"])
        raise ValueError(f"{path}: the first line has no {' and no '.join(missing)}; it has {has}.")
    for number, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(
                f"{path} line {number} has more columns than the first line. A prompt must not contain a tab."
            )
        group = _one_line(row[GROUP] or "") if GROUP in row else None
        yield _Entry(_one_line(row[prompt] or ""), _one_line(row[category] or ""), f"{path.name} line {number}", group)


def _lines(path: Path, *, category: str) -> Iterator[_Entry]:
    for number, line in enumerate(
        _text(path).split("\n"), 1
    ):  # a prompt may contain U+2028, which splitlines treats as a line end
        if not line.strip():
            continue
        try:
            fields: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error}.") from error
        found = [fields.get(name) if isinstance(fields, dict) else None for name in ("prompt", category)]
        if not all(isinstance(value, str) for value in found):
            raise ValueError(f"{path} line {number} is not a JSON object with the texts `prompt` and `{category}`.")
        prompt, own = (_one_line(str(value)) for value in found)
        yield _Entry(prompt, own, f"{path.name} line {number}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


_READERS: dict[str, Callable[[Path, str], Iterator[_Entry]]] = {
    "parti": _parti,
    "geneval": _geneval,
    "hps": _hps,
    "tsv": _tsv,
    "jsonl": _jsonl,
}
