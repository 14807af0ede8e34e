from typing import Any

import pyarrow as pa
import pytest

from pipelines.intake.pairs import IMAGE_COLUMNS, PAIRS_SCHEMA
from pipelines.intake.rule_columns import (
    ILLEGAL_LABELS,
    UNCOUNTED_PIXELS,
    _count_control_characters,
    _position_bias,
    rule_columns,
)
from pipelines.intake.sources.columns import VOTE_FIELDS
from pipelines.project.sections import ValidationSection
from pipelines.records.heldout_prompts import HeldoutPrompts

SCHEMA = pa.schema([field for field in PAIRS_SCHEMA if field.name not in IMAGE_COLUMNS])
GOOD: dict[str, Any] = {
    **{"pair_id": "p", "prompt": "a prompt", "label_0": 1.0, "label_1": 0.0, "has_label": True, "preference": 1.0},
    **{"annotator_id": "x", "licence": "MIT", "source_row": 0},
    **{f"{name}_{side}": value for side in (0, 1) for name, value in {
        "sha256": str(side), "num_bytes": 10 + side, "problem": "", "format": "PNG", "width": 40, "height": 50 + side
    }.items()},
}  # fmt: skip


def columns(*rows: dict[str, Any], heldout: frozenset[str] = frozenset(), **limits: Any) -> dict[str, list[Any]]:
    table = pa.Table.from_pylist([{**GOOD, **row} for row in rows], schema=SCHEMA)
    frame = rule_columns(table, ValidationSection(**limits), HeldoutPrompts(digest="0" * 64, normal=heldout))
    assert frame["row"].tolist() == list(range(len(rows)))
    return {name: frame[name].tolist() for name in frame.columns}


def test_a_good_row() -> None:
    assert columns({}) == {
        "row": [0], "images_decodable": [True], "images_decoded_in_time": [True],
        "decoder_survived": [True], "images_of_one_frame": [True], "image_format": ["PNG"],
        "largest_image_bytes": [11], "largest_image_pixels": [40 * 51], "longest_image_side": [51],
        "shortest_image_side": [40], "prompt_length": [8], "prompt_control_characters": [0],
        "prompt_shows_nothing": [False], "prompt_is_held_out": [False], "prompt_is_nearly_held_out": [False],
        "has_label": [True], "labels": [1.0], "identical_images_preferred": [False],
        "copies_before": [0], "labels_contradicted": [False], "position_bias": [0.0], "annotator_share": [0.0],
        "annotator_always_on_one_side": [False], "annotator_share_among_several": [0.0],
        "annotator_side_share": [0.0], "annotator_disagreement": [0.0], "licence": ["MIT"],
    }  # fmt: skip


def test_an_undecoded_image_breaks_only_its_limit_while_it_exceeds_it() -> None:
    unknown: dict[str, Any] = {"width_1": None, "height_1": None, "format_1": None}
    rows: list[dict[str, Any]] = [
        {"problem_1": "too_long_side", "width_1": 99},
        {"problem_1": "too_many_pixels", **unknown},
        {"problem_1": "too_many_bytes", "num_bytes_1": 99, **unknown},
        {"problem_1": "format", "format_1": "GIF"},
        {"problem_1": "damaged"},
    ]
    tight = {"max_image_side": 60, "max_image_bytes": 50}
    assert columns(*rows, **tight)["images_decodable"] == [True, True, True, True, False]
    assert columns(*rows, allowed_formats=("PNG", "GIF"))["images_decodable"] == [False, True, False, False, False]
    assert columns(*rows)["largest_image_pixels"][1] == UNCOUNTED_PIXELS


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"preference": float("nan"), "label_1": 1.0}, ILLEGAL_LABELS),
        ({"preference": 1.0, "label_1": 0.5}, ILLEGAL_LABELS),
        ({"preference": 0.0}, ILLEGAL_LABELS),
        ({"preference": 0.5, "label_0": 0.5, "label_1": 0.5}, 0.5),
    ],
)
def test_labels_must_agree_with_the_preference(row: dict[str, Any], expected: float) -> None:
    assert columns(row)["labels"] == [expected]


def test_heldout_prompts_are_compared_in_normal_form() -> None:
    found = columns({"prompt": "A  RED circle?"}, {"prompt": "a blue circle"}, heldout=frozenset({"a red circle"}))
    assert found["prompt_is_held_out"] == [True, False]


def test_near_heldout_prompts_are_found_beside_the_same_ones() -> None:
    held = "a small red circle on a plain black background"
    rows = [{"prompt": prompt} for prompt in (held.upper(), held.replace("plain ", ""), "a small dog on a black mat")]
    found = columns(*rows, heldout=frozenset({held}))
    assert found["prompt_is_held_out"] == [True, False, False]
    assert found["prompt_is_nearly_held_out"] == [False, True, False]


def test_prompts_that_show_nothing_are_told_from_empty_ones() -> None:
    rows = [{"prompt": prompt} for prompt in ("", None, "\u200b", " \u3164 ", "!")]
    assert columns(*rows)["prompt_shows_nothing"] == [False, False, True, True, False]


def test_a_slow_image_and_one_that_kills_its_decoder_break_their_own_rule() -> None:
    found = columns({"problem_0": "decode_too_slow"}, {"problem_1": "decode_failed"}, {"problem_1": "damaged"})
    assert found["images_decoded_in_time"] == [False, True, True]
    assert found["decoder_survived"] == [True, False, True]
    assert found["images_decodable"] == [True, True, False]


def test_duplicates_are_found_in_any_spelling_of_the_prompt() -> None:
    against = {"preference": 0.0, "label_0": 0.0, "label_1": 1.0}
    found = columns({}, {"prompt": "A PROMPT!", "pair_id": "q"}, {"prompt": "a pr\u043empt", "pair_id": "r", **against})
    assert found["copies_before"] == [0, 1, 2]
    assert found["labels_contradicted"] == [True, True, True]
    assert columns({}, {"prompt": "another", "pair_id": "q"})["copies_before"] == [0, 0]


def test_control_characters() -> None:
    assert _count_control_characters("tab\tline\nreturn\r plain é \U0001f469\u200d\U0001f52c") == 0
    assert _count_control_characters("\x00\x1b\x7f\u202e\u2066") == 5


def test_ties_neither_contradict_nor_hide_a_contradiction() -> None:
    tie = {"preference": 0.5, "label_0": 0.5, "label_1": 0.5}
    against = {"preference": 0.0, "label_0": 0.0, "label_1": 1.0}
    assert columns({}, tie)["labels_contradicted"] == [False, False]
    assert columns({}, tie, against)["labels_contradicted"] == [True, False, True]
    assert columns({}, tie, against)["copies_before"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("left", "decided", "bias"),
    [
        (60, 99, 0.0),
        (520, 1000, 0.0),
        (700, 1000, 0.15),
        (300, 1000, 0.15),
        # The chosen image first (or second) is a layout, which says nothing about what people were shown.
        (1000, 1000, 0.0),
        (0, 1000, 0.0),
    ],
)
def test_the_bias_towards_a_side_is_what_the_sample_shows(left: int, decided: int, bias: float) -> None:
    assert _position_bias(left, decided) == pytest.approx(bias, abs=0.01)


def votes(who: str, number: int, *, left: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of one annotator on distinct pairs, the first `left` for the left image."""
    return [
        {
            **{"annotator_id": who, "pair_id": f"{who}{n}", "sha256_0": f"a{first + n}", "sha256_1": f"b{first + n}"},
            **{"preference": 1.0, "label_0": 1.0, "label_1": 0.0},
            **({} if n < left else {"preference": 0.0, "label_0": 0.0, "label_1": 1.0}),
        }
        for n in range(number)
    ]


def test_one_of_five_who_gives_most_labels_dominates_and_one_of_four_does_not() -> None:
    small = [row for n in range(3) for row in votes(f"p{n}", 10, left=5, first=1000 * n)]
    flood = votes("flood", 60, left=30, first=9000)
    share = "annotator_share_among_several"
    assert max(columns(*small, *flood)[share]) == 0.0
    five = columns(*small, *flood, *votes("p4", 5, left=2, first=20_000))[share]
    assert five[30:90] == pytest.approx([60 / 95] * 60)
    assert set(five[:30] + five[90:]) == {0.0}


def test_an_annotator_on_one_side_is_found_from_a_hundred_preferences_on() -> None:
    lefty, mixed = votes("l", 100, left=96), votes("m", 120, left=60, first=500)
    found = columns(*lefty, *mixed)["annotator_side_share"]
    assert (found[0], found[100]) == (pytest.approx(0.96), pytest.approx(0.5))
    assert columns(*votes("l", 99, left=99), *mixed)["annotator_side_share"][0] == 0.0
    assert columns(*votes("r", 100, left=0), *mixed)["annotator_side_share"][0] == 1.0
    layout = columns(*votes("l", 100, left=100), *votes("m", 120, left=120, first=500))
    assert max(layout["annotator_side_share"]) == 0.0, "the chosen image comes first in this source"


def test_those_who_are_set_aside_do_not_bias_the_batch() -> None:
    rows = [*votes("l", 300, left=300), *votes("m", 200, left=100, first=500)]
    biased = columns(*rows, annotator_severity="warn")["position_bias"]
    assert max(biased) > 0.1
    assert max(columns(*rows)["position_bias"]) == 0.0


def test_an_annotator_whose_labels_are_swapped_disagrees_with_the_others() -> None:
    honest = [row for who in ("a", "b") for row in votes(who, 40, left=20)]
    swapped = [
        {**row, "preference": 1 - row["preference"], "label_0": row["label_1"], "label_1": row["label_0"]}
        for row in votes("c", 40, left=20)
    ]
    found = columns(*honest, *swapped)["annotator_disagreement"]
    assert (found[0], found[79], found[80]) == (0.0, 0.0, 1.0), "one against two; an even split counts for nobody"
    assert max(columns(*honest, *swapped[:19])["annotator_disagreement"]) == 0.0


def vote_columns(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    schema = pa.schema([*SCHEMA, *VOTE_FIELDS])
    table = pa.Table.from_pylist(
        [{**GOOD, "num_votes": 5, "pair_id": str(n), **r} for n, r in enumerate(rows)], schema=schema
    )
    frame = rule_columns(table, ValidationSection(), HeldoutPrompts(digest="0" * 64, normal=frozenset()))
    return {name: frame[name].tolist() for name in frame.columns}


def label(share: float | None, other: float | None, **row: Any) -> dict[str, Any]:
    return {"label_0": share, "label_1": other, "preference": float("nan") if share is None else share, **row}


def test_shares_of_votes_are_legal_only_where_a_source_has_votes() -> None:
    rows = [label(0.7, 1 - 0.7), label(0.2, 0.8), label(0.7, 0.7), label(1.2, -0.2), label(None, None), label(0.5, 0.5)]
    assert vote_columns(*rows)["labels"] == [1.0, 0.0, ILLEGAL_LABELS, ILLEGAL_LABELS, ILLEGAL_LABELS, 0.5]
    assert columns(*rows)["labels"] == [ILLEGAL_LABELS] * 5 + [0.5]


def test_two_shares_contradict_each_other_only_if_they_favour_different_images() -> None:
    same = {"pair_id": "p"}
    agree = vote_columns(label(0.7, 1 - 0.7, **same), label(0.9, 1 - 0.9, **same))
    assert (agree["labels_contradicted"], agree["copies_before"]) == ([False, False], [0, 1])
    differ = vote_columns(label(0.7, 1 - 0.7, **same), label(0.4, 0.6, **same))
    assert differ["labels_contradicted"] == [True, True]


def single(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    """Rows of one image, with no facts of a second."""
    second: dict[str, Any] = {name: None for name in GOOD if name.endswith("_1") and name != "label_1"}
    table = pa.Table.from_pylist([{**GOOD, **second, **row} for row in rows], schema=SCHEMA)
    table = table.append_column("kind", pa.array(["unpaired"] * len(rows)))
    frame = rule_columns(table, ValidationSection(), HeldoutPrompts(digest="0" * 64, normal=frozenset()))
    return {name: frame[name].tolist() for name in frame.columns}


DISLIKED: dict[str, Any] = {"preference": 0.0, "label_0": 0.0, "label_1": 1.0}


def test_a_single_image_is_judged_by_this_image() -> None:
    found = single({}, {"problem_0": "damaged", "sha256_0": "2"}, {"format_0": "GIF", "sha256_0": "3"})
    assert found["images_decodable"] == [True, False, True]
    assert found["image_format"] == ["PNG", "PNG", "GIF"]
    assert found["largest_image_bytes"] == [10, 10, 10]
    assert found["shortest_image_side"] == [40, 40, 40]
    assert found["labels"] == [1.0, 1.0, 1.0]


def test_an_image_liked_and_disliked_by_one_person_is_a_contradiction() -> None:
    other = {"annotator_id": "y"}
    found = single({}, DISLIKED, {**DISLIKED, **other}, {**DISLIKED, "sha256_0": "9"}, {"prompt": "A PROMPT", **other})
    assert found["labels_contradicted"] == [True, True, True, False, True]
    assert found["copies_before"] == [0, 1, 0, 0, 1]


def test_people_who_contradict_most_others_about_single_images_are_found() -> None:
    rows = [{"sha256_0": str(n), "annotator_id": who} for n in range(20) for who in ("a", "b")]
    rows += [{**DISLIKED, "sha256_0": str(n), "annotator_id": "c"} for n in range(20)]
    found = single(*rows)["annotator_disagreement"]
    assert found[40:] == [1.0] * 20
    assert set(found[:40]) == {0.0}, "of one other person for and one against there is no majority"
