"""Checkpoints: tensors that are read, and files that are refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alignment.conversion.checkpoints import float32, read_checkpoint, require


class Danger:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("was_run"),))  # type: ignore[return-value]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_nested_tensors_are_found_and_data_parallel_prefixes_removed(tmp_path: Path, wrapper: str | None) -> None:
    weights = {"module.a": torch.ones(2), "module.b": torch.zeros(1).half()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "w.pt")
    found = read_checkpoint(tmp_path / "w.pt")
    assert set(found) == {"a", "b"}
    assert {tensor.dtype for tensor in float32(found).values()} == {torch.float32}
    save_file(found, tmp_path / "w.safetensors")
    assert set(read_checkpoint(tmp_path / "w.safetensors")) == {"a", "b"}


def test_a_file_with_code_is_refused_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps({"a": 1, "b": Danger()}, protocol=2))
    with pytest.raises(ValueError, match="might run code") as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)
    torch.save({"a": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="might run code"):
        read_checkpoint(path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("w.pt", b"?"), ("w.pt", b"el?"), ("w.safetensors", b"?"), ("w.zip", b""), ("w.pt", None)]
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is None:
        torch.save({"epoch": 1}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"refused|not a safetensors|not a weights file|no named tensors"):
        read_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pt")


def test_a_file_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a CLIP: it lacks proj \(it has head, \.\.\.\)"):
        require({"head": torch.ones(1)}, ("proj",), "a CLIP")
