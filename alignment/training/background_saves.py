"""Checkpoints written while training goes on: the state is copied to host memory, and a thread writes and hashes it.

There is one copy and one thread: a save waits until the one before is on disk. A checkpoint becomes visible as in
`checkpoint.py`, complete or not at all, so a crash in the middle leaves the previous one.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from alignment.files.host_memory import free_host_bytes
from alignment.training.checkpoint import CheckpointFolder, TensorFiles, TrainingState
from alignment.training.sharding import whole

logger = logging.getLogger(__name__)

COPY_SHARE = 0.5
"""Share of the host's free memory that the copy may take."""


class BackgroundSaves:
    """The saves of a run. As a context manager it waits for the last one, also when the run ends with an error.

    A host without memory for the copy has its checkpoints written while training waits, one tensor at a time.
    """

    def __init__(self, folder: CheckpointFolder, free_bytes: Callable[[], int | None] = free_host_bytes) -> None:
        self._folder = folder
        self._free_bytes = free_bytes
        self._copies: dict[tuple[str, str], Tensor] = {}
        """Copies by file and name, allocated by the first save and written over by the others."""
        self._pending: Future[Path] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, state: TrainingState, files: TensorFiles) -> None:
        """Copy the tensors and have them written. Afterwards they may change. Raises the error of the save before.

        The values of sharded tensors are gathered here: the other processes call `checkpoint.gather` meanwhile.
        """
        self.wait()
        if not self._has_room(files):
            self._folder.save(state, files)
            return
        copied = {file: self._copy(file, files[file]) for file in files}
        self._pending = self._thread.submit(self._folder.save, state, copied, Tensor.detach)

    def check(self) -> None:
        """Raise the error with which the thread stopped; do not wait for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything saved is on disk. Raises the thread's error, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copy(self, file: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._copy_one((file, name), tensor) for name, tensor in tensors.items()}

    def _copy_one(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        values = whole(tensor).detach()
        copy = self._copies.get(key)
        if copy is None or copy.shape != values.shape or copy.dtype != values.dtype:
            copy = self._copies[key] = torch.empty(values.shape, dtype=values.dtype)
        return copy.copy_(values)

    def _has_room(self, files: TensorFiles) -> bool:
        if self._copies:
            return True
        needed = sum(tensor.numel() * tensor.element_size() for file in files.values() for tensor in file.values())
        free = self._free_bytes()
        if free is None or needed <= COPY_SHARE * free:
            return True
        logger.warning(
            "Training waits while a checkpoint is written: a copy of its %.1f GiB does not fit half of the host's free"
            " memory, %.1f GiB.",
            needed / 2**30,
            free / 2**30,
        )
        return False

    def __enter__(self) -> "BackgroundSaves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            logger.error("The last checkpoint was not written either: %s", failure)
        finally:
            self._thread.shutdown()
