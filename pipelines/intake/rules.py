"""The data rules: one small function each, giving a Great Expectations expectation over a column of rule_columns.

Critical row rules send a row to quarantine, critical schema and table rules fail the batch, warnings only tell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.intake.rule_columns import MINIMUM_ANNOTATOR_ROWS
from pipelines.project.sections import ValidationSection

RULES_VERSION = 1
"""Raised when the same rows would now be judged otherwise."""

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class Rule:
    """A rule ready to run. `expectation` is an instance from great_expectations.expectations."""

    name: str
    severity: Severity
    scope: Literal["table", "row"]
    expectation: Any


def pair_rules(limits: ValidationSection) -> list[Rule]:
    """Every rule over the rows of a batch, in the order of reporting."""
    return [rule(limits) for rule in PAIR_RULES]


def columns_present(expected: list[str]) -> Rule:
    """Every column of a pair table is there with its type; judged before anything is computed of the rows."""
    import great_expectations.expectations as gxe

    text = "A pair table has all of its columns, each with its type."
    sets = gxe.ExpectTableColumnsToMatchSet(
        column_set=expected, exact_match=False, severity="critical", description=text
    )
    return Rule("columns_present", "critical", "table", sets)


def rows_present(limits: ValidationSection) -> Rule:
    """A batch without rows is a source gone wrong."""
    import great_expectations.expectations as gxe

    text = "The batch has at least one row."
    return Rule(
        "rows_present",
        "critical",
        "table",
        gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="critical", description=text),
    )


def image_decodable(limits: ValidationSection) -> Rule:
    """Both images are there and every pixel decodes."""
    return _is(True, "image_decodable", "images_decodable", "Both images are there, and decode to the last pixel.")


def image_single_frame(limits: ValidationSection) -> Rule:
    """No animations."""
    return _is(True, "image_single_frame", "images_of_one_frame", "Neither image is an animation.")


def image_format(limits: ValidationSection) -> Rule:
    """Both formats are on the allow-list; an image that no decoder knows is the business of image_decodable."""
    import great_expectations.expectations as gxe

    text = f"Both images are {' or '.join(limits.allowed_formats)}."
    expectation = gxe.ExpectColumnValuesToBeInSet(
        column="image_format", value_set=list(limits.allowed_formats), severity="critical", description=text
    )
    return Rule("image_format", "critical", "row", expectation)


def image_bytes(limits: ValidationSection) -> Rule:
    """Encoded size."""
    return _between(
        "image_bytes", "largest_image_bytes", "Encoded bytes of the larger image", high=limits.max_image_bytes
    )


def image_pixels(limits: ValidationSection) -> Rule:
    """Width times height, from the header."""
    return _between("image_pixels", "largest_image_pixels", "Pixels of the larger image", high=limits.max_image_pixels)


def image_longest_side(limits: ValidationSection) -> Rule:
    """Too long a side, in pixels."""
    return _between("image_longest_side", "longest_image_side", "Longest side in pixels", high=limits.max_image_side)


def image_shortest_side(limits: ValidationSection) -> Rule:
    """Too short a side, in pixels."""
    return _between("image_shortest_side", "shortest_image_side", "Shortest side in pixels", low=limits.min_image_side)


def prompt_length(limits: ValidationSection) -> Rule:
    """A prompt that says something, within bounds; a missing one has length 0."""
    text = "Characters of the prompt, outer white space aside"
    return _between("prompt_length", "prompt_length", text, low=1, high=limits.max_prompt_chars)


def prompt_characters(limits: ValidationSection) -> Rule:
    """Control characters, and overrides of the writing direction, hide what a prompt says."""
    text = "Control characters in the prompt"
    return _between("prompt_characters", "prompt_control_characters", text, high=0)


def prompt_held_out(limits: ValidationSection) -> Rule:
    """A prompt of the evaluation, in any spelling that normalises to the same, would leak into training."""
    text = "The prompt is not one of the prompts held out for evaluation."
    return _is(False, "prompt_held_out", "prompt_is_held_out", text)


def labelled(limits: ValidationSection) -> Rule:
    """Somebody compared the two images. Rows that fail nothing else are set aside without counting as bad."""
    return _is(True, "labelled", "has_label", "The source says that somebody labelled the pair.")


def labels_legal(limits: ValidationSection) -> Rule:
    """1/0, 0/1 or 0.5/0.5: each in {0, 0.5, 1} and together 1. Not asked of rows without a label."""
    import great_expectations.expectations as gxe

    text = "The two labels are 1 and 0, 0 and 1, or 0.5 each (shown as that of image 0; -1 is anything else)."
    expectation = gxe.ExpectColumnValuesToBeInSet(
        column="labels", value_set=[0.0, 0.5, 1.0], severity="critical", description=text
    )
    return Rule("labels_legal", "critical", "row", expectation)


def identical_images(limits: ValidationSection) -> Rule:
    """The same bytes twice can only be a tie."""
    text = "No preference between two identical images."
    return _is(False, "identical_images", "identical_images_preferred", text)


def duplicate_pair(limits: ValidationSection) -> Rule:
    """The same images, prompt and annotator again; the first stays."""
    text = "Earlier rows with the same images, prompt and annotator"
    return _between("duplicate_pair", "copies_before", text, high=0)


def contradictory_labels(limits: ValidationSection) -> Rule:
    """The same annotator preferring each image once; none of the rows can be believed."""
    text = "No row of the same images, prompt and annotator prefers the other image."
    return _is(False, "contradictory_labels", "labels_contradicted", text)


def licence_present(limits: ValidationSection) -> Rule:
    """Where pairs come from decides what may be done with a model."""
    import great_expectations.expectations as gxe

    text = "The row names a licence."
    expectation = gxe.ExpectColumnValuesToNotBeNull(column="licence", severity="critical", description=text)
    return Rule("licence_present", "critical", "row", expectation)


def annotator_flood(limits: ValidationSection) -> Rule:
    """One person's taste should not be most of a batch."""
    text = f"Share of the batch by the row's annotator, from {MINIMUM_ANNOTATOR_ROWS} rows on"
    high = limits.max_annotator_share
    return _between("annotator_flood", "annotator_share", text, high=high, severity="warning")


def annotator_one_sided(limits: ValidationSection) -> Rule:
    """Always left or always right says more about the person than about the images."""
    text = f"The row's annotator does not choose one side always, in {MINIMUM_ANNOTATOR_ROWS} rows or more."
    column = "annotator_always_on_one_side"
    return _is(False, "annotator_one_sided", column, text, severity="warning")


PAIR_RULES: tuple[Callable[[ValidationSection], Rule], ...] = (
    rows_present,
    image_decodable,
    image_single_frame,
    image_format,
    image_bytes,
    image_pixels,
    image_longest_side,
    image_shortest_side,
    prompt_length,
    prompt_characters,
    prompt_held_out,
    labelled,
    labels_legal,
    identical_images,
    duplicate_pair,
    contradictory_labels,
    licence_present,
    annotator_flood,
    annotator_one_sided,
)


def _is(wanted: bool, name: str, column: str, text: str, *, severity: Severity = "critical") -> Rule:
    """A yes-or-no column that must say `wanted` in every row."""
    import great_expectations.expectations as gxe

    expectation = gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=[wanted], severity=severity, description=text
    )
    return Rule(name, severity, "row", expectation)


def _between(
    name: str,
    column: str,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    severity: Severity = "critical",
) -> Rule:
    """A number in every row that must lie in closed bounds; a null is a question that does not arise."""
    import great_expectations.expectations as gxe

    bounds = " and ".join(
        f"{word} {value}" for word, value in (("at least", low), ("at most", high)) if value is not None
    )
    expectation = gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, severity=severity, description=f"{text}: {bounds}."
    )
    return Rule(name, severity, "row", expectation)
