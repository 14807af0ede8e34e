"""An object of the store as a file that can be read in parts, for formats with their index at the end."""

import io
from typing import Any

from pipelines.store.storage import Store


class RangeFile(io.RawIOBase):
    """Reads only the parts that are asked for. ValueError when the object does not exist or was replaced meanwhile."""

    def __init__(self, store: Store, uri: str) -> None:
        self._store, self._uri, self._at = store, uri, 0
        self._num_bytes, _ = store.stat(uri)
        self._version = ""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in bytes, relative to the start, the position or the end; return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read bytes into the buffer; return their number, 0 at the end."""
        wanted = min(len(buffer), self._num_bytes - self._at)
        if wanted <= 0:
            return 0
        data, self._version = self._store.read_range(self._uri, self._at, wanted, self._version)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
