"""Replays which image of a pair is the chosen one, by its labels."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

from alignment.data.pairs import pixels
from pipelines.intake.sources.pick_a_pic import preference_from_labels
from tests.golden.recorded import Case, NotBuiltError


def takes(case: Case) -> bool:
    """Two encoded images, a label, and the pixels that training was fed."""
    return {"jpg_0_uint8", "jpg_1_uint8", "label_0", "pixel_values"} <= set(case.fields)


def replay(case: Case) -> None:
    """Labels decide which image is chosen; a tie is dropped at intake, whatever the recorded code made of it."""
    if case.params.get("choice_model"):
        raise NotBuiltError("pair labelling by a scorer (labelling/proxy_vote)")
    recorded = case["pixel_values"]
    ties = 0
    for row, label_0 in enumerate(case["label_0"].tolist()):
        preference = preference_from_labels(label_0, 1 - label_0)
        if preference == 0.5:
            ties += 1
            continue
        case.require(f"row {row} has a legal label", not math.isnan(preference))
        order = ("jpg_0_uint8", "jpg_1_uint8") if preference == 1 else ("jpg_1_uint8", "jpg_0_uint8")
        ours = torch.cat([_pixels(case, name, row) for name in order])
        case.expect(f"pixel_values[{row}]", ours, absolute=1e-6, against=recorded[row])
    if ties:
        case.remarks.append(f"{ties} tie(s) dropped; the recorded code takes image 0 unless ties were filtered before")
    if "feed_pixel_values" in case:
        case.expect("feed_pixel_values", torch.cat(recorded.chunk(2, dim=1)), absolute=0.0)


def _pixels(case: Case, name: str, row: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(case[name][row].numpy()).save(buffer, format="PNG")
    return pixels(buffer.getvalue(), int(case.params["resolution"]), f"{name}[{row}]")
