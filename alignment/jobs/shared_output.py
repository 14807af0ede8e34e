"""Copy files that other ranks wrote, over the process group: ranks on several hosts share no disk."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import distributed

from alignment.contracts.jobs import FAILURE_FILE, PROGRESS_FILE
from alignment.files.paths import resolve_below

logger = logging.getLogger(__name__)

PIECE_BYTES = 16 * 1024 * 1024
_NOT_SHARED = {PROGRESS_FILE, FAILURE_FILE}


def share_output(state: PartialState, folder: Path, *, everywhere: bool = False) -> None:
    """Wait for all ranks; afterwards rank 0 has every file that a rank wrote below `folder`. Hidden files stay.

    `everywhere`: every rank has them. Ranks on one disk have them already, and only compare their lists. A file that
    several ranks have must be the same file.
    """
    state.wait_for_everyone()
    if state.num_processes == 1:
        return
    group = distributed.new_group(backend="gloo") if distributed.get_backend() != "gloo" else None
    here: dict[str, int] = dict(_files(folder))
    by_rank: list[Any] = [None] * state.num_processes
    distributed.all_gather_object(by_rank, here, group=group)
    receivers = range(state.num_processes) if everywhere else [0]
    for name in sorted(set().union(*by_rank)):
        owner = next(rank for rank, files in enumerate(by_rank) if name in files)
        lacking = [rank for rank in receivers if name not in by_rank[rank]]
        path, size = resolve_below(folder, name, "the list of another rank"), by_rank[owner][name]
        if state.process_index == owner and lacking:
            _send(path, size, lacking, group)
        elif state.process_index in lacking:
            _receive(path, size, owner, group)
    state.wait_for_everyone()


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """List the files below a folder with their sizes, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() not in _NOT_SHARED and not any(p.startswith(".") for p in name.parts):
            yield name.as_posix(), path.stat().st_size


def _send(path: Path, size: int, targets: list[int], group: Any) -> None:
    for start in range(0, size, PIECE_BYTES):
        piece = np.fromfile(path, dtype=np.uint8, offset=start, count=min(PIECE_BYTES, size - start))
        for target in targets:
            distributed.send(torch.from_numpy(piece), target, group=group)


def _receive(path: Path, size: int, owner: int, group: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        for start in range(0, size, PIECE_BYTES):
            piece = torch.empty(min(PIECE_BYTES, size - start), dtype=torch.uint8)
            distributed.recv(piece, owner, group=group)
            file.write(piece.numpy().data)
    draft.replace(path)
