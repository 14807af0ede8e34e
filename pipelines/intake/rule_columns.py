"""Columns that the data rules check: one plain column per rule, computed from facts.

The columns contain no prompt, person or image.
"""

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from alignment.statistics.normal_text import normal_prompt, visible
from pipelines.intake.comparisons import comparison_key
from pipelines.intake.sources.columns import KIND_FIELD, VOTE_FIELDS
from pipelines.project.sections import ValidationSection
from pipelines.records.heldout_prompts import HeldoutPrompts

if TYPE_CHECKING:
    import pandas as pd

MINIMUM_ANNOTATOR_ROWS = 20
"""Fewest rows of one annotator in a batch from which the annotator's habits are checked."""
MINIMUM_DECIDED_ROWS = 100
"""Fewest preferences of a batch from which the sides of the preferred images are checked."""
SEVERAL_ANNOTATORS = 5
"""Number of annotators of a batch from which the share of one of them is no matter of a small team."""
ILLEGAL_LABELS = -1.0
"""Value in `labels` for anything but 1/0, 0/1, 0.5/0.5 and, where a source has votes, two shares that sum to 1."""
_LABEL_TOLERANCE = 1e-9
UNCOUNTED_PIXELS = 2**40
"""Size recorded for an image whose header alone exceeded what the decoder may read."""

_READ = [
    *("prompt", "has_label", "label_0", "label_1", "preference", "annotator_id", "licence"),
    *(f"{fact}_{side}" for side in (0, 1) for fact in ("sha256", "problem", "format", "width", "height", "num_bytes")),
]
_ALLOWED_CONTROLS = frozenset("\t\n\r")
_BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def rule_columns(pairs: pa.Table, limits: ValidationSection, heldout: HeldoutPrompts) -> "pd.DataFrame":
    """Return one row per pair, in order; `row` numbers them from 0. A null means that the rule does not apply.

    `pairs` has the columns of PAIRS_SCHEMA except the images. Where it has one image a row, the columns that compare
    two mean nothing; no rule of `unpaired_rules` reads them.
    """
    import pandas as pd

    further = [name for name in pairs.schema.names if name in (VOTE_FIELDS[0].name, KIND_FIELD.name)]
    table = pairs.select([*_READ, *further]).to_pandas()
    if _has_one_image(table):
        table["sha256_1"] = ""  # sorts before every image, so that all rows of an image have the same side
    columns = {"row": range(len(table))}
    people = _annotator_columns(table)
    normal = [normal_prompt(prompt) for prompt in table["prompt"].fillna("")]
    frames = [_image_columns(table, limits), _prompt_columns(table, normal, heldout), _label_columns(table, normal)]
    frames.append(_side_column(table, people, limits))
    licence = table["licence"].where(table["licence"].fillna("").str.strip() != "", None)
    frames += [people, licence.to_frame("licence")]
    joined: pd.DataFrame = pd.concat([pd.DataFrame(columns), *frames], axis=1)
    return joined


def _count_control_characters(prompt: str) -> int:
    """Count control characters other than tab and line ends, lone surrogates and overrides of the writing direction."""
    return sum(
        (unicodedata.category(c) in ("Cc", "Cs") and c not in _ALLOWED_CONTROLS) or c in _BIDI_OVERRIDES for c in prompt
    )


def _image_columns(table: "pd.DataFrame", limits: ValidationSection) -> "pd.DataFrame":
    import pandas as pd

    sides = [_one_image(table, side, limits) for side in ((0,) if _has_one_image(table) else (0, 1))]
    both = {name: pd.concat([side[name] for side in sides], axis=1) for name in sides[0].columns}
    foreign = both["format"].where(~both["format"].isin(limits.allowed_formats))
    return pd.DataFrame(
        {
            "images_decodable": both["decodable"].all(axis=1),
            "images_decoded_in_time": both["in_time"].all(axis=1),
            "decoder_survived": both["survived"].all(axis=1),
            "images_of_one_frame": both["one_frame"].all(axis=1),
            "image_format": foreign.bfill(axis=1).iloc[:, 0].fillna(both["format"].bfill(axis=1).iloc[:, 0]),
            "largest_image_bytes": both["num_bytes"].max(axis=1),
            "largest_image_pixels": both["pixels"].max(axis=1),
            "longest_image_side": both["longest"].max(axis=1),
            "shortest_image_side": both["shortest"].min(axis=1),
        }
    )


def _one_image(table: "pd.DataFrame", side: int, limits: ValidationSection) -> "pd.DataFrame":
    """Return the columns about one image of each pair.

    An image that ingest did not decode because of a limit counts as decodable while it still exceeds that limit: the
    rule of the limit reports it. If the limit was raised since, the image was never decoded and counts as undecodable.
    An image whose decoder was too slow or died has a separate rule, too.
    """
    import pandas as pd

    problem, format_name = table[f"problem_{side}"], table[f"format_{side}"]
    sides = table[[f"width_{side}", f"height_{side}"]].astype("float64")
    pixels = sides.prod(axis=1, skipna=False).mask(
        (problem == "too_many_pixels") & sides.isna().any(axis=1), UNCOUNTED_PIXELS
    )
    over_a_limit = (
        ((problem == "too_many_bytes") & (table[f"num_bytes_{side}"] > limits.max_image_bytes))
        | ((problem == "too_many_pixels") & (pixels > limits.max_image_pixels))
        | ((problem == "too_long_side") & (sides.max(axis=1) > limits.max_image_side))
        | ((problem == "format") & ~format_name.isin(limits.allowed_formats))
    )
    return pd.DataFrame(
        {
            "decodable": problem.isin(["", "frames", "decode_too_slow", "decode_failed"]) | over_a_limit,
            "in_time": problem != "decode_too_slow",
            "survived": problem != "decode_failed",
            "one_frame": problem != "frames",
            "format": format_name,
            "num_bytes": table[f"num_bytes_{side}"],
            "pixels": pixels,
            "longest": sides.max(axis=1),
            "shortest": sides.min(axis=1),
        }
    )


def _prompt_columns(table: "pd.DataFrame", normal: list[str], heldout: HeldoutPrompts) -> "pd.DataFrame":
    import pandas as pd

    prompts = table["prompt"].fillna("")
    return pd.DataFrame(
        {
            "prompt_length": prompts.str.strip().str.len().astype("int64"),
            "prompt_control_characters": [_count_control_characters(prompt) for prompt in prompts],
            "prompt_shows_nothing": [bool(prompt.strip()) and not visible(prompt) for prompt in prompts],
            "prompt_is_held_out": [prompt in heldout.normal for prompt in normal],
            "prompt_is_nearly_held_out": [heldout.is_near(prompt) for prompt in normal],
        }
    )


def _comparisons(table: "pd.DataFrame", normal: list[str]) -> "pd.Series[Any]":
    """Return the key of each row's comparison."""
    import pandas as pd

    sides = zip(table["sha256_0"], table["sha256_1"], normal, table["annotator_id"].fillna(""), strict=True)
    keys = [comparison_key(a, b, normal=prompt, annotator_id=who) for a, b, prompt, who in sides]
    return pd.Series(keys, index=table.index, dtype=object)


def _label_columns(table: "pd.DataFrame", normal: list[str]) -> "pd.DataFrame":
    """Find duplicates among rows with a legal label, in any order of the two images and any spelling of the prompt."""
    import pandas as pd

    comparison = _comparisons(table, normal)
    labelled = table["has_label"].fillna(False).astype(bool)
    legal, preference = _legal(table), _side(table)
    same = table["sha256_0"] == table["sha256_1"]
    decided = labelled & legal & (preference != 0.5)
    turned = preference.where(table["sha256_0"] <= table["sha256_1"], 1 - preference).where(decided & ~same)
    of_pair = turned.groupby(comparison)
    return pd.DataFrame(
        {
            "has_label": labelled,
            "labels": preference.where(legal, ILLEGAL_LABELS).where(labelled),
            "identical_images_preferred": same & decided,
            "copies_before": _copies_before(comparison[labelled & legal]).reindex(table.index, fill_value=0),
            "labels_contradicted": (of_pair.transform("nunique") > 1) & turned.notna(),
        }
    )


def _side_column(table: "pd.DataFrame", people: "pd.DataFrame", limits: ValidationSection) -> "pd.DataFrame":
    """Return the bias of the batch's preferences towards a side, without annotators whose rows are quarantined."""
    import pandas as pd

    apart = (people["annotator_share_among_several"] > limits.max_annotator_share) | (
        people["annotator_side_share"] > limits.max_annotator_side_share
    )
    favoured = _side(table)
    strict = favoured.where(favoured.isin([0.0, 1.0]) & table["has_label"].fillna(False))
    if limits.annotator_severity == "quarantine":
        strict = strict.where(~apart)
    bias = _position_bias(int((strict == 1).sum()), int(strict.notna().sum()))
    return pd.DataFrame({"position_bias": bias}, index=table.index)


def _copies_before(comparison: "pd.Series[Any]") -> "pd.Series[int]":
    return comparison.groupby(comparison).cumcount()


def _legal(table: "pd.DataFrame") -> "pd.Series[bool]":
    """Return True for rows whose labels sum to 1: each in {0, 0.5, 1}, or any share where the source has votes."""
    preference, other = table["preference"], table["label_1"]
    agree = table["label_0"] == preference
    if _has_votes(table):
        return agree & preference.between(0, 1) & (preference + other - 1).abs().le(_LABEL_TOLERANCE)
    return agree & preference.isin([0.0, 0.5, 1.0]) & (other == 1 - preference)


def _side(table: "pd.DataFrame") -> "pd.Series[float]":
    """Return 1, 0 or 0.5: the image that the label favours. A label without votes is unchanged."""
    preference = table["preference"]
    if not _has_votes(table):
        return preference
    return preference.mask(preference > 0.5, 1.0).mask(preference < 0.5, 0.0)


def _has_votes(table: "pd.DataFrame") -> bool:
    return VOTE_FIELDS[0].name in table


def _has_one_image(table: "pd.DataFrame") -> bool:
    return KIND_FIELD.name in table


def _position_bias(left: int, decided: int) -> float:
    """Return by how much one side is shown to be preferred beyond one half of the time: the lower Wilson bound at
    99.9 %, 0 if it is not shown.

    Where all preferences are on one side, the side is the layout of the source (the chosen image first) and no bias.
    """
    from statsmodels.stats.proportion import proportion_confint

    if decided < MINIMUM_DECIDED_ROWS or left in (0, decided):
        return 0.0
    low, _ = proportion_confint(max(left, decided - left), decided, alpha=0.001, method="wilson")
    return max(0.0, float(np.asarray(low).item()) - 0.5)


def _annotator_columns(table: "pd.DataFrame") -> "pd.DataFrame":
    """Describe the annotator of each row by share, sides and agreement within the batch."""
    import pandas as pd

    who, preference = table["annotator_id"].fillna(""), _side(table)
    rows = who.groupby(who).transform("size")
    judged = (who != "") & (rows >= MINIMUM_ANNOTATOR_ROWS)
    share = (rows / max(len(table), 1)).where(judged, 0.0)
    strict = preference.where(preference.isin([0.0, 1.0]))
    sides, num_strict = strict.groupby(who), strict.groupby(who).transform("count")
    one_sided = (sides.transform("nunique") == 1) & (num_strict >= MINIMUM_ANNOTATOR_ROWS)
    left = sides.transform("mean").fillna(0.5)
    has_layout = strict.nunique() == 1
    checked = (who != "") & (num_strict >= MINIMUM_DECIDED_ROWS) & (not has_layout)
    return pd.DataFrame(
        {
            "annotator_share": share,
            "annotator_always_on_one_side": judged & one_sided,
            "annotator_share_among_several": share * float(who[who != ""].nunique() >= SEVERAL_ANNOTATORS),
            "annotator_side_share": left.where(left >= 0.5, 1 - left).where(checked, 0.0),
            "annotator_disagreement": _disagreement(table, who, strict),
        }
    )


def _disagreement(table: "pd.DataFrame", who: "pd.Series[str]", strict: "pd.Series[float]") -> "pd.Series[float]":
    """Return, for each row, how often its annotator contradicts most others on the same two images and prompt.

    It is 0 below MINIMUM_ANNOTATOR_ROWS pairs on which the others have a majority.
    """
    small, large = table[["sha256_0", "sha256_1"]].min(axis=1), table[["sha256_0", "sha256_1"]].max(axis=1)
    turned = strict.where(table["sha256_0"] <= table["sha256_1"], 1 - strict).where((who != "") & (small != large))
    votes = turned.groupby([table["prompt"].fillna(""), small, large])
    others = votes.transform("count") - turned.notna()
    mean = (votes.transform("sum") - turned.fillna(0.0)) / others.where(others > 0)
    decided = turned.notna() & mean.notna() & (mean != 0.5)
    against = ((turned > 0.5) != (mean > 0.5)).where(decided).astype("float64")
    of_annotator = against.groupby(who)
    enough = of_annotator.transform("count") >= MINIMUM_ANNOTATOR_ROWS
    return of_annotator.transform("mean").fillna(0.0).where(enough & (who != ""), 0.0)
