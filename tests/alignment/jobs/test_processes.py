"""One process on the CPU: threads and determinism are fixed."""

import logging

import pytest
import torch

from alignment.contracts.jobs import Placement
from alignment.jobs.processes import device_of, start_processes


def test_threads_and_determinism_follow_the_placement(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    threads = torch.get_num_threads()
    try:
        state = start_processes(Placement(threads_per_process=2))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert (state.num_processes, state.process_index, state.is_main_process) == (1, 0, True)
        assert device_of(state).type == "cpu"
        assert "process 0 of 1 on cpu" in caplog.text
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
