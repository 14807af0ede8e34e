"""Checkpoints: exact, complete or absent; damaged ones are recognised."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alignment.catalogues.optimisers import Adafactor
from alignment.files.durable import file_sha256
from alignment.training import checkpoint
from alignment.training.checkpoint import CheckpointFolder, TrainingState, _damage, read_state, restore, tensor_files
from alignment.training.optimisation import build_optimiser


def state(step: int) -> TrainingState:
    return TrainingState(
        spec_digest="s",
        step=step,
        next_position=8 * step,
        learning_rate=0.1,
        guard_losses=(0.5, 0.25),
        guard_spikes=1,
        sample_keys=("0/samples/00",),
    )


def trained(steps: int) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    continue_training(model, optimiser, steps)
    return model, optimiser


def continue_training(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.ones(2, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_restored_training_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimiser = trained(3)
    path = CheckpointFolder(tmp_path / "c", keep=2).save(state(3), tensor_files(model, optimiser))
    continue_training(model, optimiser, 2)
    fresh, fresh_optimiser = trained(0)
    restore(path, fresh, fresh_optimiser)
    continue_training(fresh, fresh_optimiser, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    assert read_state(path) == state(3)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_adafactor_continues_bit_for_bit(tmp_path: Path) -> None:
    """Its state is factors of a matrix, the full moments of a vector, and a step count that is a plain integer."""

    def trained_by_adafactor(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, _ = trained(0)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimiser = build_optimiser(weights, Adafactor(learning_rate=0.1))
        continue_training(model, optimiser, steps)
        return model, optimiser

    model, optimiser = trained_by_adafactor(3)
    path = CheckpointFolder(tmp_path / "c", keep=2).save(state(3), tensor_files(model, optimiser))
    fresh, fresh_optimiser = trained_by_adafactor(0)
    restore(path, fresh, fresh_optimiser)
    for ours, theirs in zip(fresh_optimiser.state.values(), optimiser.state.values(), strict=True):
        assert {key: type(value) for key, value in ours.items()} == {k: type(v) for k, v in theirs.items()}
        assert ours["step"] == 3
    continue_training(model, optimiser, 2)
    continue_training(fresh, fresh_optimiser, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    unrestored, new_optimiser = trained_by_adafactor(3)
    new_optimiser.state.clear()
    continue_training(unrestored, new_optimiser, 2)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), unrestored.parameters(), strict=True))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    model, optimiser = trained(1)
    for step in (5, 50, 100):
        folder.save(state(step), tensor_files(model, optimiser))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step_000050", "step_000100"]
    assert folder.newest() == tmp_path / "c" / "step_000100"
    folder.drop_beyond(50)
    assert folder.newest() == tmp_path / "c" / "step_000050"
    assert CheckpointFolder(tmp_path / "none", keep=2).newest() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimiser.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "truncated", "changed"])
def test_a_damaged_checkpoint_is_detected_and_skipped(tmp_path: Path, name: str, how: str) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=3)
    model, optimiser = trained(1)
    folder.save(state(1), tensor_files(model, optimiser))
    folder.save(state(2), tensor_files(model, optimiser))
    victim = tmp_path / "c" / "step_000002" / name
    content = victim.read_bytes()
    victim.unlink()
    if how == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif how == "changed":
        victim.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert _damage(tmp_path / "c" / "step_000002")
    assert folder.newest() == tmp_path / "c" / "step_000001"


def test_a_checkpoint_with_an_empty_manifest_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert "weights.safetensors" in str(_damage(tmp_path))


def test_a_full_disk_leaves_the_old_checkpoint_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=1)
    model, optimiser = trained(1)
    old = folder.save(state(1), tensor_files(model, optimiser))
    honest = checkpoint.write_tensors

    def fills_up(path: Path, tensors: Mapping[str, Tensor], **options: Any) -> None:
        if path.name == "optimiser.safetensors":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        honest(path, tensors, **options)

    monkeypatch.setattr(checkpoint, "write_tensors", fills_up)
    with pytest.raises(OSError, match="No space left"):
        folder.save(state(2), tensor_files(model, optimiser))
    assert list((tmp_path / "c").iterdir()) == [old]
    assert _damage(old) is None


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    model, optimiser = trained(1)
    folder.save(state(4), tensor_files(model, optimiser))
    continue_training(model, optimiser, 1)
    path = folder.save(state(4), tensor_files(model, optimiser))
    assert _damage(path) is None


@pytest.mark.parametrize("name", ["../step_000001/state.json", "/etc/hostname"])
def test_a_manifest_that_names_files_of_another_folder_counts_as_damage(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=3)
    model, optimiser = trained(1)
    folder.save(state(1), tensor_files(model, optimiser))
    newest = folder.save(state(2), tensor_files(model, optimiser))
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest[name] = manifest["state.json"]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert "does not stay inside" in str(_damage(newest))
    assert folder.newest() == tmp_path / "c" / "step_000001"


def test_the_manifest_has_the_digests_of_the_files_as_they_are_on_disk(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path / "c", keep=2).save(state(1), tensor_files(*trained(1)))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest == {
        name: file_sha256(path / name) for name in ("weights.safetensors", "optimiser.safetensors", "state.json")
    }


def test_a_checkpoint_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """Written by safetensors' own writer, with a manifest in which the files are sorted by name."""
    model, optimiser = trained(3)
    path = tmp_path / "c" / "step_000003"
    path.mkdir(parents=True)
    for name, tensors in tensor_files(model, optimiser).items():
        save_file({key: tensor.detach() for key, tensor in tensors.items()}, path / name)
    (path / "state.json").write_text(state(3).model_dump_json(exclude={"chosen_worse_steps"}))
    manifest = {file.name: file_sha256(file) for file in sorted(path.iterdir())}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert CheckpointFolder(tmp_path / "c", keep=2).newest() == path
    fresh, fresh_optimiser = trained(0)
    restore(path, fresh, fresh_optimiser)
    continue_training(model, optimiser, 2)
    continue_training(fresh, fresh_optimiser, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
