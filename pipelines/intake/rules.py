"""The data rules: one small function each, returning a Great Expectations expectation over a column of rule_columns.

Critical row rules send a row to quarantine, critical schema and table rules fail the batch, warnings only report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.intake.rule_columns import MINIMUM_ANNOTATOR_ROWS, MINIMUM_DECIDED_ROWS, SEVERAL_ANNOTATORS
from pipelines.project.sections import ValidationSection

RULES_VERSION = 4
"""Raised when the same rows would now be validated differently."""

Severity = Literal["critical", "warning", "info"]
_ANNOTATOR_SEVERITY: Mapping[str, Severity] = {"warn": "warning", "quarantine": "critical"}


@dataclass(frozen=True)
class Rule:
    """A rule that is ready to run. `expectation` is an instance from great_expectations.expectations."""

    name: str
    severity: Severity
    scope: Literal["table", "row"]
    expectation: Any


def pair_rules(limits: ValidationSection) -> list[Rule]:
    """Return every rule over the rows of a batch, in the order of reporting."""
    return [rule(limits) for rule in PAIR_RULES]


def unpaired_rules(limits: ValidationSection) -> list[Rule]:
    """Return the rules over rows of one image: those of `pair_rules` that compare no two images."""
    return [_of_one_image(rule) for rule in pair_rules(limits) if rule.name not in _OF_TWO_IMAGES]


def _of_one_image(rule: Rule) -> Rule:
    text = rule.expectation.description
    for words, others in _ONE_IMAGE_WORDS:
        text = text.replace(words, others)
    return replace(rule, expectation=rule.expectation.copy(update={"description": text}, deep=True))


def columns_present(expected: list[str]) -> Rule:
    """Every column of a pair table exists with its type; checked before anything is computed from the rows."""
    import great_expectations.expectations as gxe

    text = "A pair table has all of its columns, each with its type."
    sets = gxe.ExpectTableColumnsToMatchSet(
        column_set=expected, exact_match=False, severity="critical", description=text
    )
    return Rule("columns_present", "critical", "table", sets)


def rows_present(limits: ValidationSection) -> Rule:
    """A batch contains rows: an empty batch means that the source failed."""
    import great_expectations.expectations as gxe

    text = "The batch has at least one row."
    return Rule(
        "rows_present",
        "critical",
        "table",
        gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="critical", description=text),
    )


def image_decodable(limits: ValidationSection) -> Rule:
    """Both images exist and every pixel decodes."""
    return _is(True, "image_decodable", "images_decodable", "Both images exist, and decode to the last pixel.")


def decode_too_slow(limits: ValidationSection) -> Rule:
    """Both images decode within the limit of CPU time: a progressive JPEG can have thousands of scans."""
    seconds = f"{limits.max_decode_seconds:g} CPU seconds"
    text = f"Both images decode within {seconds}, and no JPEG has many times the scans that encoders write."
    return _is(True, "decode_too_slow", "images_decoded_in_time", text)


def decode_failed(limits: ValidationSection) -> Rule:
    """The process that decodes the images survives them."""
    return _is(True, "decode_failed", "decoder_survived", "No process that decoded one of the images died of it.")


def image_single_frame(limits: ValidationSection) -> Rule:
    """No animations."""
    return _is(True, "image_single_frame", "images_of_one_frame", "Neither image is an animation.")


def image_format(limits: ValidationSection) -> Rule:
    """Both formats are allowed; image_decodable reports an image that no decoder recognises."""
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
    """The longest side, in pixels, is within the limit."""
    return _between("image_longest_side", "longest_image_side", "Longest side in pixels", high=limits.max_image_side)


def image_shortest_side(limits: ValidationSection) -> Rule:
    """The shortest side, in pixels, is within the limit."""
    return _between("image_shortest_side", "shortest_image_side", "Shortest side in pixels", low=limits.min_image_side)


def prompt_length(limits: ValidationSection) -> Rule:
    """The prompt is not empty and its length is within bounds; a missing prompt has length 0."""
    text = "Characters of the prompt, outer white space aside"
    return _between("prompt_length", "prompt_length", text, low=1, high=limits.max_prompt_chars)


def prompt_visible(limits: ValidationSection) -> Rule:
    """The prompt shows something: format characters, fillers and control characters alone describe no image."""
    text = "The prompt has at least one character that a person sees."
    return _is(False, "prompt_visible", "prompt_shows_nothing", text)


def prompt_characters(limits: ValidationSection) -> Rule:
    """The prompt has no control characters or overrides of the writing direction, which hide its contents."""
    text = "Control characters in the prompt"
    return _between("prompt_characters", "prompt_control_characters", text, high=0)


def prompt_held_out(limits: ValidationSection) -> Rule:
    """The prompt is not an evaluation prompt in any spelling with the same normal form: it would leak into training."""
    text = "The prompt is not one of the prompts held out for evaluation."
    return _is(False, "prompt_held_out", "prompt_is_held_out", text)


def prompt_near_held_out(limits: ValidationSection) -> Rule:
    """The prompt is not nearly an evaluation prompt: at least nine of ten words are the same, in the same order."""
    text = "The prompt differs from every prompt held out for evaluation by more than one word of ten."
    return _is(False, "prompt_near_held_out", "prompt_is_nearly_held_out", text)


def labelled(limits: ValidationSection) -> Rule:
    """The pair has a label. Rows that break no other rule are set aside without counting as bad."""
    return _is(True, "labelled", "has_label", "The source has a label for the pair.")


def labels_legal(limits: ValidationSection) -> Rule:
    """The labels are 1/0, 0/1 or 0.5/0.5: each in {0, 0.5, 1} and together 1; shares from 0 to 1 where a source has
    votes. Not checked for rows without a label.
    """
    import great_expectations.expectations as gxe

    text = "The two labels are 1 and 0, 0 and 1, or 0.5 each (shown as that of image 0; -1 is anything else)."
    expectation = gxe.ExpectColumnValuesToBeInSet(
        column="labels", value_set=[0.0, 0.5, 1.0], severity="critical", description=text
    )
    return Rule("labels_legal", "critical", "row", expectation)


def identical_images(limits: ValidationSection) -> Rule:
    """Two images with the same bytes can only be a tie."""
    text = "No preference between two identical images."
    return _is(False, "identical_images", "identical_images_preferred", text)


def duplicate_pair(limits: ValidationSection) -> Rule:
    """No earlier row has the same images, prompt in any spelling, and annotator; the first such row is kept."""
    text = "Earlier rows with the same images, prompt and annotator"
    return _between("duplicate_pair", "copies_before", text, high=0)


def contradictory_labels(limits: ValidationSection) -> Rule:
    """The same annotator does not prefer each image once; where that happens, none of the rows is used."""
    text = "No row of the same images, prompt and annotator prefers the other image."
    return _is(False, "contradictory_labels", "labels_contradicted", text)


def position_bias(limits: ValidationSection) -> Rule:
    """People do not prefer one side: a habit, or a page that favours it, would teach the model nothing about images."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    high = limits.max_position_bias
    text = (
        "Share of preferences for one side beyond one half, shown at 99.9 %, where they are not all on one side: at"
        f" most {high:g}. Show the images in random order, or remove these labels."
    )
    expectation = gxe.ExpectColumnMaxToBeBetween(
        column="position_bias", max_value=high, severity=FailureSeverity.CRITICAL, description=text
    )
    return Rule("position_bias", "critical", "table", expectation)


def licence_present(limits: ValidationSection) -> Rule:
    """The row names a licence: the origin of pairs limits the use of a model."""
    import great_expectations.expectations as gxe

    text = "The row names a licence."
    expectation = gxe.ExpectColumnValuesToNotBeNull(column="licence", severity="critical", description=text)
    return Rule("licence_present", "critical", "row", expectation)


def annotator_flood(limits: ValidationSection) -> Rule:
    """One annotator does not provide most of a batch."""
    text = f"Share of the batch by the row's annotator, from {MINIMUM_ANNOTATOR_ROWS} rows on"
    high = limits.max_annotator_share
    return _between("annotator_flood", "annotator_share", text, high=high, severity="warning")


def annotator_one_sided(limits: ValidationSection) -> Rule:
    """No annotator always chooses left or always right: that reflects a habit, not the images."""
    text = f"The row's annotator does not always choose the same side, in {MINIMUM_ANNOTATOR_ROWS} rows or more."
    column = "annotator_always_on_one_side"
    return _is(False, "annotator_one_sided", column, text, severity="warning")


def annotator_dominates(limits: ValidationSection) -> Rule:
    """Among several annotators, no one provides most of a batch: one taste, or a script, would speak for all."""
    text = f"Share of the batch by the row's annotator, among {SEVERAL_ANNOTATORS} annotators or more"
    high, severity = limits.max_annotator_share, _ANNOTATOR_SEVERITY[limits.annotator_severity]
    return _between("annotator_dominates", "annotator_share_among_several", text, high=high, severity=severity)


def annotator_prefers_a_side(limits: ValidationSection) -> Rule:
    """No annotator prefers one side in nearly all of many pairs: no honest person does."""
    text = f"Share of the preferences of the row's annotator for one side, from {MINIMUM_DECIDED_ROWS} on"
    high, severity = limits.max_annotator_side_share, _ANNOTATOR_SEVERITY[limits.annotator_severity]
    return _between("annotator_prefers_a_side", "annotator_side_share", text, high=high, severity=severity)


def annotator_disagrees(limits: ValidationSection) -> Rule:
    """No annotator contradicts most others on most of the pairs they share: the labels may be swapped."""
    text = f"Share of the row's annotator's preferences against most others, from {MINIMUM_ANNOTATOR_ROWS} pairs on"
    high = limits.max_annotator_disagreement
    return _between("annotator_disagrees", "annotator_disagreement", text, high=high, severity="warning")


SET_ASIDE = frozenset(rule.__name__ for rule in (labelled, annotator_dominates, annotator_prefers_a_side))
"""Rules whose rows are set aside without counting as bad rows of their batch."""

_OF_TWO_IMAGES = frozenset(
    rule.__name__ for rule in (identical_images, position_bias, annotator_one_sided, annotator_prefers_a_side)
)
_ONE_IMAGE_WORDS = (
    ("Both images exist, and decode ", "The image exists, and decodes "),
    ("Both images decode", "The image decodes"),
    ("Both images are", "The image is"),
    ("one of the images", "the image"),
    ("Neither image is", "The image is not"),
    ("the larger image", "the image"),
    ("The two labels are 1 and 0, 0 and 1, or 0.5 each (shown as that of image 0; ", "The label is 1 or 0 ("),
    ("prefers the other image", "has the other label"),
    ("the same images", "the same image"),
    ("a label for the pair", "a label for the image"),
    ("annotator's preferences", "annotator's labels"),
    (f"{MINIMUM_ANNOTATOR_ROWS} pairs", f"{MINIMUM_ANNOTATOR_ROWS} images"),
)
"""Words of the rules' descriptions, and those for a row of one image."""

PAIR_RULES: tuple[Callable[[ValidationSection], Rule], ...] = (
    rows_present,
    image_decodable,
    decode_too_slow,
    decode_failed,
    image_single_frame,
    image_format,
    image_bytes,
    image_pixels,
    image_longest_side,
    image_shortest_side,
    prompt_length,
    prompt_visible,
    prompt_characters,
    prompt_held_out,
    prompt_near_held_out,
    labelled,
    labels_legal,
    identical_images,
    duplicate_pair,
    contradictory_labels,
    position_bias,
    licence_present,
    annotator_flood,
    annotator_one_sided,
    annotator_dominates,
    annotator_prefers_a_side,
    annotator_disagrees,
)


def _is(wanted: bool, name: str, column: str, text: str, *, severity: Severity = "critical") -> Rule:
    """Expect `wanted` in every row of a boolean column."""
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
    """Expect a number within closed bounds in every row; a null means that the rule does not apply."""
    import great_expectations.expectations as gxe

    bounds = " and ".join(
        f"{word} {value}" for word, value in (("at least", low), ("at most", high)) if value is not None
    )
    expectation = gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, severity=severity, description=f"{text}: {bounds}."
    )
    return Rule(name, severity, "row", expectation)
