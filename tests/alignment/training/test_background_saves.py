"""Checkpoints that a thread writes: of the values at the time of the save, one at a time, complete or absent."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alignment.training import checkpoint
from alignment.training.background_saves import BackgroundSaves
from alignment.training.checkpoint import (
    OPTIMISER_FILE,
    WEIGHTS_FILE,
    CheckpointFolder,
    TensorFiles,
    TrainingState,
    read_state,
)

WAIT_SECONDS = 60


def state(step: int) -> TrainingState:
    return TrainingState(
        spec_digest="s",
        step=step,
        next_position=8 * step,
        learning_rate=0.1,
        guard_losses=(),
        guard_spikes=0,
        sample_keys=(),
    )


def files_of(weight: Tensor) -> TensorFiles:
    return {WEIGHTS_FILE: {"w": weight}, OPTIMISER_FILE: {"step:w": torch.tensor(1.0)}}


class Gate:
    """Holds the thread before the first file of a checkpoint until `open` is set."""

    def __init__(self, honest: Callable[..., None]) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._honest = honest

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], **options: Any) -> None:
        self.reached.set()
        assert self.open.wait(WAIT_SECONDS)
        self._honest(path, tensors, **options)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(checkpoint.write_tensors)
    monkeypatch.setattr(checkpoint, "write_tensors", gate.write_tensors)
    yield gate
    gate.open.set()


def test_training_goes_on_and_the_values_of_the_save_are_written(tmp_path: Path, gate: Gate) -> None:
    folder, weight = CheckpointFolder(tmp_path / "c", keep=2), torch.ones(3)
    with BackgroundSaves(folder) as saves:
        saves.save(state(1), files_of(weight))
        assert gate.reached.wait(WAIT_SECONDS)
        saves.check()
        weight.zero_()
        assert folder.newest() is None, "it is not on disk yet, and training goes on"
        gate.open.set()
    path = folder.newest()
    assert path is not None
    assert read_state(path).step == 1
    assert load_file(path / WEIGHTS_FILE)["w"].tolist() == [1, 1, 1]


def test_a_save_waits_for_the_one_before_and_uses_its_memory(tmp_path: Path, gate: Gate) -> None:
    folder, weight = CheckpointFolder(tmp_path / "c", keep=2), torch.ones(3)
    with BackgroundSaves(folder) as saves:
        saves.save(state(1), files_of(weight))
        [first, _] = saves._copies.values()
        begun = threading.Event()

        def save() -> None:
            begun.set()
            saves.save(state(2), files_of(weight))

        weight.fill_(2)
        second = threading.Thread(target=save)
        second.start()
        assert begun.wait(WAIT_SECONDS)
        assert gate.reached.wait(WAIT_SECONDS)
        assert first.tolist() == [1, 1, 1], "the copy is not written over while the thread reads it"
        gate.open.set()
        second.join(WAIT_SECONDS)
        saves.wait()
        assert next(iter(saves._copies.values())).data_ptr() == first.data_ptr()
    assert [load_file(path / WEIGHTS_FILE)["w"][0].item() for path in folder._present()] == [2, 1]


def check_until_it_raises(saves: BackgroundSaves) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        saves.check()


def test_an_error_of_the_thread_is_raised_at_the_next_check_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)

    def fail(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    with BackgroundSaves(folder) as saves:
        saves.save(state(1), files_of(torch.ones(3)))
        saves.wait()
        monkeypatch.setattr(checkpoint, "write_json", fail)
        saves.save(state(2), files_of(torch.ones(3)))
        with pytest.raises(OSError, match="No space left"):
            check_until_it_raises(saves)
        saves.check()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step_000001"]


def test_the_end_waits_and_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, value: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with (
        pytest.raises(OSError, match="broken"),
        BackgroundSaves(CheckpointFolder(tmp_path / "c", keep=2)) as saves,
    ):
        saves.save(state(1), files_of(torch.ones(3)))


def train_and_fail(folder: CheckpointFolder, step: int) -> None:
    with BackgroundSaves(folder) as saves:
        saves.save(state(step), files_of(torch.ones(3)))
        raise RuntimeError("training")


def test_an_error_of_training_is_not_replaced_and_the_checkpoint_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    with pytest.raises(RuntimeError, match="training"):
        train_and_fail(folder, step=1)
    assert folder.newest() == tmp_path / "c" / "step_000001"

    def fail(path: Path, value: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(RuntimeError, match="training"):
        train_and_fail(folder, step=2)
    assert "not written either: broken" in caplog.text


@pytest.mark.parametrize(("free", "copied"), [(32, True), (31, False), (None, True)])
def test_without_room_for_a_copy_training_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, free: int | None, copied: bool
) -> None:
    """Three weights and a step are 16 bytes, and a copy may take half of what is free."""
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    with BackgroundSaves(folder, lambda: free) as saves:
        saves.save(state(1), files_of(torch.ones(3)))
        assert bool(saves._copies) == copied
        if not copied:
            assert folder.newest() is not None
            assert "Training waits while a checkpoint is written" in caplog.text
    assert folder.newest() is not None


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import test_background_saves as tests
from alignment.training import checkpoint

folder = checkpoint.CheckpointFolder(Path(sys.argv[1]), keep=2)
with tests.BackgroundSaves(folder) as saves:
    saves.save(tests.state(1), tests.files_of(tests.torch.ones(3)))
    saves.wait()
    honest = checkpoint.write_tensors

    def half(path, tensors, **options):
        honest(path, tensors, **options)
        if path.name == tests.OPTIMISER_FILE:
            path.write_bytes(path.read_bytes()[:20])
            print("in the middle", flush=True)
            time.sleep(600)

    checkpoint.write_tensors = half
    saves.save(tests.state(2), tests.files_of(tests.torch.ones(3)))
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "c"), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        process.send_signal(signal.SIGKILL)
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    assert folder.newest() == tmp_path / "c" / "step_000001"
    with BackgroundSaves(folder) as saves:
        saves.save(state(2), files_of(torch.zeros(3)))
    assert folder.newest() == tmp_path / "c" / "step_000002"
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step_000001", "step_000002"]
