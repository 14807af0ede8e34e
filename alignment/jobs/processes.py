"""The processes of one job: device, rank, threads, determinism. Started by accelerate's launcher or directly."""

import logging
from datetime import timedelta

import torch
from accelerate import PartialState
from transformers.utils import logging as transformers_logging

from alignment.contracts.jobs import Placement

logger = logging.getLogger(__name__)

WAIT_LIMIT = timedelta(hours=12)
"""Longest time that a rank waits for the others; the launcher notices a dead rank much earlier."""


def start_processes(placement: Placement) -> PartialState:
    """Join the process group (gloo on CPU, NCCL on GPU) and fix every setting that could make two CPU runs differ.

    On CPU every operation must be deterministic, and the placement sets the number of threads.
    """
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(placement.threads_per_process)
        torch.use_deterministic_algorithms(True)
    state = PartialState(cpu=not on_gpu, timeout=WAIT_LIMIT)
    if not on_gpu:
        torch.set_num_threads(placement.threads_per_process)
    transformers_logging.disable_progress_bar()
    logger.info("process %d of %d on %s", state.process_index, state.num_processes, state.device)
    return state


def device_of(state: PartialState) -> torch.device:
    """Return the device of this process."""
    assert state.device is not None, "accelerate sets it when the process starts"
    return state.device
