"""Errors about the layout of a file: columns that are missing or wrong, and files that are something else."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from pipelines.intake.sources.catalogue import SOURCES

HEAD_BYTES = 200
_LFS = b"version https://git-lfs.github.com/spec/"
_SHOWN_COLUMNS = 40


class LayoutError(ValueError):
    """A file that can be read has other columns than its kind of source."""


def layout_error(name: str, what: str, problems: Sequence[str], columns: Sequence[str]) -> LayoutError:
    """Return the error for a file with other columns than `what` has; it names the kinds that the columns fit."""
    shown = ", ".join(columns[:_SHOWN_COLUMNS]) or "none"
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return LayoutError(
        f"{name} is not {what}: {'; '.join(problems)}. Its columns: {shown}{more}. {_advice(columns)}"
        " `plumbline sources` lists the kinds with an example each."
    )


def missing_column(name: str, columns: Iterable[str], kind: str = "") -> str:
    """Describe a column that is not there, with the nearest that is."""
    nearest = get_close_matches(name, list(columns), n=1, cutoff=0.5)
    details = [kind, *(f"did you mean {own!r}?" for own in nearest)]
    note = "; ".join(detail for detail in details if detail)
    return f"no column {name!r}{f' ({note})' if note else ''}"


def fitting_kinds(columns: Iterable[str]) -> list[str]:
    """Return the kinds of source whose layout these columns have."""
    found = set(columns)
    return [
        str(cls.model_fields["kind"].default)
        for cls in SOURCES
        if any(layout <= found for layout in map(set, cls.layouts))
    ]


@contextmanager
def readable(path: Path, name: str, what: str) -> Iterator[None]:
    """Turn a failure to read the file into a ValueError; a Git LFS pointer and a web page are named as such."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise unreadable(_head(path), name, what, error) from error


def unreadable(head: bytes, name: str, what: str, error: Exception) -> ValueError:
    """Return the error for a file that cannot be read; `head` is its first bytes."""
    if head.startswith(_LFS):
        return ValueError(
            f"{name} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository, or download the"
            " file with `hf download`."
        )
    if head.lstrip()[:20].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return ValueError(
            f"{name} is a web page, not {what}. Download the file itself: its address has /resolve/ instead of /blob/"
            " or /tree/."
        )
    return ValueError(f"{name} cannot be read as {what}: {error}. It is missing, truncated or damaged: fetch it again.")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD_BYTES)
    except OSError:
        return b""


def _advice(columns: Sequence[str]) -> str:
    kinds = fitting_kinds(columns)
    if kinds:
        return f"Kinds that fit: {', '.join(kinds)}."
    return (
        "No kind has these columns; `table` reads them if [sources.columns] says which is which, `likes` if a row has"
        " one image."
    )
