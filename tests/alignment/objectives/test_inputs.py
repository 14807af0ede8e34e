"""The two records that the training step and an objective exchange."""

import dataclasses

import pytest
import torch

from alignment.objectives.inputs import ObjectiveOutput, PairErrors


@pytest.mark.parametrize("record", [PairErrors, ObjectiveOutput])
def test_records_hold_two_tensors_and_are_frozen(record: type) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    assert len(names) == 2
    made = record(*(torch.zeros(3), torch.ones(3)))
    assert getattr(made, names[1]).sum().item() == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, names[0], torch.ones(3))
