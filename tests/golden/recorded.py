"""A recorded case: its parameters, fields and arrays, and the result of replaying it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

RELATIVE = 1e-5
ZERO = 1e-12
"""Difference from a recorded zero, for which no relative tolerance allows any."""
FLOAT32_SPACING = 2.0**-23


class NotBuiltError(Exception):
    """The case needs code that does not exist yet."""


class UnsupportedError(Exception):
    """The case belongs to a method that Plumbline does not support. The message states the reason."""


@dataclass
class Case:
    """One recorded case and the result of replaying it."""

    method: str
    name: str
    params: dict[str, Any]
    fields: dict[str, dict[str, Any]]
    tensors: dict[str, Tensor]
    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> Tensor:
        """Return a field as a tensor. Scalars may be in the JSON alone."""
        if name in self.tensors:
            return self.tensors[name]
        value = torch.tensor(self.fields[name]["value"])
        return value.reshape(self.fields[name]["shape"])

    def expect(
        self,
        name: str,
        ours: Tensor,
        *,
        absolute: float = ZERO,
        relative: float = RELATIVE,
        against: Tensor | None = None,
    ) -> None:
        """Compare with a recorded field if the case has it, and report the largest excess over the tolerance.

        A tolerance computed from a case whose errors are all 0 would be 0; `ZERO` is allowed in any case.
        """
        if against is None and name not in self:
            return
        theirs = (self[name] if against is None else against).double()
        ours = ours.detach().double()
        absolute = max(absolute, ZERO)
        self.checked.append(name)
        if ours.shape != theirs.shape:
            self.wrong.append(f"{name}: shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
        elif not torch.allclose(ours, theirs, rtol=relative, atol=absolute, equal_nan=True):
            worst = (ours - theirs).abs().max().item()
            self.wrong.append(f"{name}: off by up to {worst:.3g} (allowed {absolute:.3g} + {relative:g} relative)")

    def require(self, what: str, holds: bool) -> None:
        """Record a condition that must hold."""
        self.checked.append(what)
        if not holds:
            self.wrong.append(f"{what} does not hold")


def read_case(folder: Path, name: str) -> Case:
    """Read a case in either layout: CASE.json with CASE.safetensors, or a folder CASE with case.json and array files.

    The method is the JSON's `method`, or else the folder's name. In a folder, `params` is the complete JSON and tensors
    are named by their file: `inputs.image_0`.
    """
    if (folder / name / "case.json").is_file():
        return _read_folder(folder.name, folder / name)
    recorded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    arrays = folder / f"{name}.safetensors"
    tensors = load_file(arrays) if arrays.is_file() else {}
    method = recorded.get("method", folder.name)
    return Case(method, name, recorded["params"], recorded["fields"], tensors)


def _read_folder(method: str, folder: Path) -> Case:
    recorded = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    tensors = {
        f"{path.stem}.{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    fields = {name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype)} for name, tensor in tensors.items()}
    return Case(method, folder.name, recorded, fields, tensors)
