"""Replay the choice of a pair's chosen image and caption, by labels or by a judge."""

import io
import math

import torch
from PIL import Image
from recorded import Case
from torch import Tensor

from alignment.data.pairs import pixels
from alignment.labelling.proxy_vote import proxy_votes
from pipelines.intake.snapshot import _resolved_pair
from pipelines.intake.sources.pick_a_pic import _preference_from_labels


def takes(case: Case) -> bool:
    """Two encoded images, a label, and the pixels that training read."""
    return {"jpg_0_uint8", "jpg_1_uint8", "label_0", "pixel_values"} <= set(case.fields)


def replay(case: Case) -> None:
    """Compare chosen and rejected of each row as our snapshot resolves them. Ties are dropped in any case."""
    ties = 0
    for row, label_0 in enumerate(case["label_0"].tolist()):
        preference = _preference(case, label_0)
        case.require(f"row {row} has a legal label", not math.isnan(preference))
        if preference == 0.5:
            ties += 1
        if preference != 0.5 or case.params.get("choice_model"):
            _expect_row(case, row, preference)
    if case.params.get("choice_model"):
        case.remarks.append(
            "a judge will rank these: until then labels are ignored and the source's order is kept;"
            " a vote for image 1 swaps the pair"
        )
    elif ties:
        case.remarks.append(f"{ties} tie(s) dropped; the recorded code takes image 0 unless ties were filtered before")
    for name, stacked in (("feed_pixel_values", "pixel_values"), ("encoder_input_ids", "input_ids_temp")):
        if name in case:
            case.expect(name, torch.cat(case[stacked].chunk(2, dim=1)), absolute=0.0)


def _preference(case: Case, label_0: float) -> float:
    """The human label, or a tie if a judge will replace the label."""
    if case.params.get("choice_model"):
        (vote,) = proxy_votes([0.0], [0.0])
        return vote.preference
    return _preference_from_labels(label_0, 1 - label_0)


def _expect_row(case: Case, row: int, preference: float) -> None:
    """Check that images and captions swap sides together."""
    pair = _resolved(case, row, preference)
    ours = torch.cat([_pixels(case, pair[f"image_{side}"], row) for side in ("chosen", "rejected")])
    case.expect(f"pixel_values[{row}]", ours, absolute=1e-6, against=case["pixel_values"][row])
    if "input_ids_temp" in case:
        tokens = torch.cat([case[pair[f"caption_{side}"]][row] for side in ("chosen", "rejected")])
        case.expect(f"input_ids_temp[{row}]", tokens, against=case["input_ids_temp"][row])
    if case.params.get("choice_model"):
        (vote,) = proxy_votes([0.0], [1.0])
        turned = _resolved(case, row, vote.preference)
        case.require(
            f"a vote for image 1 swaps row {row}",
            all(turned[f"{what}_chosen"] == pair[f"{what}_rejected"] for what in ("image", "caption")),
        )


def _resolved(case: Case, row: int, preference: float) -> dict[str, str]:
    """Resolve a row with our code; field names represent its images and captions."""
    names = {"image_0": "jpg_0_uint8", "image_1": "jpg_1_uint8", "caption_0": "tokens_0", "caption_1": "tokens_1"}
    nothing = dict.fromkeys(("annotator_id", "source", "licence", "generator_0", "generator_1", "created_at"), "")
    return _resolved_pair({"pair_id": f"{case.name}/{row}", "prompt": "", "preference": preference, **names, **nothing})


def _pixels(case: Case, name: str, row: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(case[name][row].numpy()).save(buffer, format="PNG")
    return pixels(buffer.getvalue(), int(case.params["resolution"]), f"{name}[{row}]")
