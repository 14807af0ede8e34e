"""Numbered entries in the store: FOLDER/000001.json and following, each written once and never changed.

Two writers of one series get different numbers: an entry is written only if its number is free, and otherwise the
writer reads the series again. Objects of a folder with other names are not entries.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from pipelines.store.storage import Store

__all__ = ["Series", "dump_model", "entry_name", "series_of_json", "series_of_models"]

Entry = TypeVar("Entry")
Model = TypeVar("Model", bound=BaseModel)
_NAME = re.compile(r"([0-9]{6,})\.json")


class Series(Generic[Entry]):
    """The entries of one folder. `parse(data, number)` converts bytes to an entry and `dump(entry)` the reverse."""

    def __init__(
        self, store: Store, *folder: str, parse: Callable[[bytes, int], Entry], dump: Callable[[Entry], bytes]
    ) -> None:
        self._store, self.folder_uri = store, store.uri(*folder)
        self._parse, self._dump = parse, dump

    def numbers(self) -> list[int]:
        """Return the numbers of the entries, ascending."""
        names = (uri.removeprefix(f"{self.folder_uri}/") for uri in self._store.list_uris(self.folder_uri))
        return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))

    def entries(self) -> list[Entry]:
        """Read every entry, oldest first."""
        return [self.read(number) for number in self.numbers()]

    def last(self) -> tuple[int, Entry | None]:
        """Read the number and content of the newest entry; 0 and None if there is none."""
        numbers = self.numbers()
        return (numbers[-1], self.read(numbers[-1])) if numbers else (0, None)

    def read(self, number: int) -> Entry:
        """Read the entry with this number; ValueError when there is none."""
        return self._parse(self._store.read_bytes(self._uri(number)), number)

    def create(self, number: int, entry: Entry) -> bool:
        """Write an entry under a number; return False, and write nothing, when another entry has this number.

        An existing entry with the same bytes counts as written, since a client repeats a put whose response was lost.
        """
        uri, data = self._uri(number), self._dump(entry)
        return self._store.create_bytes(uri, data) or self._store.read_bytes(uri) == data

    def append(self, propose: Callable[[int, Entry | None], Entry | None]) -> Entry:
        """Write the entry that `propose(number, last)` returns as the next one, and return it.

        `propose` is called again, with the new last entry, when another writer took the number. If it returns None,
        nothing is written and the last entry is returned; this is allowed only if there is a last entry.
        """
        while True:
            newest, last = self.last()
            entry = propose(newest + 1, last)
            if entry is None:
                assert last is not None, f"{self.folder_uri}: nothing was proposed for an empty series"
                return last
            if self.create(newest + 1, entry):
                return entry

    def _uri(self, number: int) -> str:
        return f"{self.folder_uri}/{entry_name(number)}"


def series_of_models(store: Store, *folder: str, model: type[Model]) -> Series[Model]:
    """Open a series of value objects, stored as indented JSON."""
    return Series(store, *folder, parse=lambda data, _: model.model_validate_json(data), dump=dump_model)


def series_of_json(store: Store, *folder: str) -> Series[dict[str, Any]]:
    """Open a series of plain JSON objects, stored in one line each."""
    return Series(store, *folder, parse=lambda data, _: json.loads(data), dump=lambda entry: json.dumps(entry).encode())


def entry_name(number: int) -> str:
    """Return the file name of an entry. Numbers begin at 1."""
    return f"{number:06d}.json"


def dump_model(entry: BaseModel) -> bytes:
    """Return the indented JSON of a value object."""
    return entry.model_dump_json(indent=1).encode()
