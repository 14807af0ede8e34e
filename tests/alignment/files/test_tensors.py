"""Our writer against the library's reader."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from alignment.files.durable import file_sha256
from alignment.files.tensors import DTYPE_CODES, write_tensors


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPE_CODES}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "strided": torch.arange(12.0).reshape(3, 4).T}
    write_tensors(tmp_path / "x", tensors, {"b": "2", "a": "1"})
    read = load_file(tmp_path / "x")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == {"a": "1", "b": "2", "format": "pt"}


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    a, b = torch.ones(3), torch.zeros(2)
    write_tensors(tmp_path / "1", {"a": a, "b": b}, {"x": "1", "y": "2", "z": "3"})
    write_tensors(tmp_path / "2", {"b": b, "a": a}, {"z": "3", "y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert int.from_bytes((tmp_path / "1").read_bytes()[:8], "little") % 8 == 0


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.ones(1)})
    (tmp_path / "y").touch()
    assert os.stat(tmp_path / "x").st_mode == os.stat(tmp_path / "y").st_mode


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        write_tensors(tmp_path / "nowhere" / "x", {"a": torch.ones(1)})


def test_a_digest_takes_in_every_byte_of_the_file(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    write_tensors(tmp_path / "x", {"a": torch.ones(3), "b": torch.zeros(2, 2)}, {"k": "v"}, digest=digest)
    assert digest.hexdigest() == file_sha256(tmp_path / "x")
