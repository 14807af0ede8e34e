"""A prompts file for online training, read line by line from disk: UTF-8, one prompt per line. Torch-free."""

from array import array
from pathlib import Path

from alignment.contracts.prompt_text import prompt_fault


class PromptLines:
    """Random access to the prompts of a file. Memory holds eight bytes per prompt, never the text.

    Empty lines are skipped. Raises ValueError for a file without prompts, or with a line that is not a prompt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("q")
        self._index()

    def __len__(self) -> int:
        """Return the number of prompts in the file."""
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        """Return the prompt at an index, in the order of the file."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            return file.readline().decode("utf-8").strip()

    def _index(self) -> None:
        try:
            with self._path.open("rb") as file:
                start = 0
                for number, line in enumerate(file, start=1):
                    if _is_prompt(line, number, self._path):
                        self._starts.append(start)
                    start += len(line)
        except OSError as error:
            raise ValueError(f"The prompts file {self._path} cannot be read: {error}.") from error
        if not self._starts:
            raise ValueError(f"The prompts file {self._path} holds no prompts. Write one prompt per line, UTF-8.")


def _is_prompt(line: bytes, number: int, path: Path) -> bool:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompts file {path}, line {number}, is not UTF-8: {error}.") from error
    if "\t" in text:
        raise ValueError(
            f"The prompts file {path}, line {number}, contains a tab. Use plain text with only one prompt per line."
        )
    if fault := prompt_fault(text):
        raise ValueError(f"The prompts file {path}, line {number}, {fault}. Remove it.")
    return bool(text)
