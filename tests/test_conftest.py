"""Tests do not reach into one another's arithmetic."""

import os

import pytest
import torch


@pytest.mark.parametrize("_turn", [1, 2])
def test_what_a_test_changes_in_torch_ends_with_it(_turn: int) -> None:
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
