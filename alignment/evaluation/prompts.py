"""The prompts file of an evaluation: tab separated, UTF-8, header `prompt<TAB>category`. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

HEADER = ["prompt", "category"]


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt; its index in the file names its images."""

    index: int
    text: str
    category: str


def read_prompts(path: Path) -> list[EvalPrompt]:
    """Every prompt in file order. Raises ValueError naming each bad line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The prompts file {path} cannot be read as UTF-8 text: {error}.") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines[0].split("\t") != HEADER:
        raise ValueError(f"The prompts file {path} must begin with the header 'prompt<TAB>category'.")
    rows = [line.split("\t") for line in lines[1:]]
    bad = [number for number, row in enumerate(rows, start=2) if len(row) != 2 or not row[0].strip()]
    if bad or not rows:
        where = f"lines {', '.join(map(str, bad[:10]))} are" if bad else "there are no prompts; each line is"
        raise ValueError(f"The prompts file {path}: {where} not 'prompt<TAB>category' with a prompt that is not empty.")
    return [EvalPrompt(index, text, category) for index, (text, category) in enumerate(rows)]
