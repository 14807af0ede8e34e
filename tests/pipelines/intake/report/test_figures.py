"""Counts by property and split, people, and the agreement of people, by hand."""

from typing import Any

import numpy as np
import pytest

from pipelines.intake.report import figures as module
from pipelines.intake.report.figures import (
    FIRST,
    OTHERS,
    SECOND,
    TIE,
    UNKNOWN,
    count_rows,
    count_unpaired,
    figures,
    votes,
)


def row(**changes: Any) -> dict[str, Any]:
    found = {
        "split": "train",
        "prompt": "a fox",
        "preference": 1.0,
        "annotator_id": "ann",
        "source": "panel",
        "licence": "CC0",
        "sha256_0": "a" * 64,
        "sha256_1": "b" * 64,
    }
    for side in (0, 1):
        found |= {f"generator_{side}": "g", f"format_{side}": "PNG", f"width_{side}": 64, f"height_{side}": 64}
    assert changes.keys() <= found.keys()
    return {**found, **changes}


def of(rows: list[dict[str, Any]]) -> Any:
    return figures(count_rows(rows), votes(rows), num_pairs=len(rows))


def test_pairs_and_images_are_counted_by_category_and_split() -> None:
    rows = [
        row(),
        row(split="test", source="other", preference=0.0, generator_1=None, prompt="x" * 26),
        row(preference=0.5, width_0=128, format_1="JPEG", prompt="x" * 301),
    ]
    counts = of(rows).counts
    assert counts["split"] == {"train": {"train": 2}, "test": {"test": 1}}
    assert counts["source"] == {"panel": {"train": 2}, "other": {"test": 1}}
    assert counts["label"] == {FIRST: {"train": 1}, SECOND: {"test": 1}, TIE: {"train": 1}}
    assert counts["generator"] == {"g": {"train": 4, "test": 1}, UNKNOWN: {"test": 1}}
    assert counts["format"] == {"PNG": {"train": 3, "test": 2}, "JPEG": {"train": 1}}
    assert counts["size"] == {"64 x 64": {"train": 3, "test": 2}, "128 x 64": {"train": 1}}
    assert counts["aspect"] == {"square": {"train": 3, "test": 2}, "4:3 to 2:1": {"train": 1}}
    assert counts["prompt length"] == {"up to 25": {"train": 1}, "26 to 75": {"test": 1}, "over 300": {"train": 1}}
    assert list(counts) == [name for name in module.UNITS if name != "unpaired"], "of which there are none"


def test_every_category_of_an_ordered_property_is_in_its_order() -> None:
    """A category that is missing there would be lost."""
    sides = [(10, 100), (60, 100), (90, 100), (100, 100), (120, 100), (190, 100), (500, 100)]
    rows = [row(width_0=w, height_0=h, width_1=w, height_1=h) for w, h in sides]
    rows += [row(prompt="x" * n) for n in (1, 26, 76, 151, 301)]
    rows += [row(preference=p) for p in (0.0, 0.2, 0.5, 0.7, 1.0)] + [row(split=s) for s in ("calibration", "test")]
    counts = of(rows).counts
    for name, order in module.ORDERS.items():
        assert tuple(counts[name]) == order
        factor = 1 + (module.UNITS[name] == "images")
        assert sum(sum(splits.values()) for splits in counts[name].values()) == factor * len(rows)


def test_rare_categories_are_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CATEGORIES", 2)
    rows = [row(source=name) for name in ("a", "a", "a", "b", "b", "c", "d")]
    assert of(rows).counts["source"] == {"a": {"train": 3}, "b": {"train": 2}, OTHERS: {"train": 2}}


def test_agreement_ignores_the_order_of_the_images() -> None:
    """Of three people on one comparison two agree, which is 2 of 6 ordered pairs; a fourth labelled another one."""
    turned = {"sha256_0": "b" * 64, "sha256_1": "a" * 64}
    rows = [
        row(annotator_id="one", preference=1.0),
        row(annotator_id="two", preference=0.0, **turned),
        row(annotator_id="three", preference=0.5),
        row(annotator_id="four", preference=0.0, prompt="a dog"),
        row(annotator_id=""),
    ]
    found = of(rows)
    agreement = found.agreement
    assert (agreement.num_comparisons, agreement.num_labels) == (1, 3)
    assert agreement.agreement == pytest.approx(2 / 6)
    assert agreement.by_chance == pytest.approx((1 / 3) ** 2 + (2 / 3) ** 2 / 2)
    assert (found.num_annotators, found.num_unnamed) == (4, 1)
    people = {person.annotator_id: person for person in found.annotators}
    assert (people["one"].agreement, people["three"].agreement, people["four"].agreement) == (0.5, 0.0, None)
    assert (people["one"].first_share, people["two"].first_share, people["three"].first_share) == (1.0, 0.0, None)
    assert (people["three"].num_ties, people["one"].num_compared) == (1, 2)


def test_the_people_with_most_pairs_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ANNOTATORS", 1)
    found = of([row(annotator_id="b", prompt=str(n)) for n in range(3)] + [row(annotator_id="a")])
    assert (found.num_annotators, [(p.annotator_id, p.num_pairs) for p in found.annotators]) == (2, [("b", 3)])


def test_parts_add_up_to_the_whole() -> None:
    rows = [row(annotator_id=f"p{n % 3}", prompt=f"prompt {n % 4}", preference=n % 2) for n in range(12)]
    parts = [rows[:5], rows[5:6], rows[6:]]
    counts = sum((count_rows(part) for part in parts), start=count_rows([]))
    joined = figures(counts, np.concatenate([votes(part) for part in parts]), num_pairs=12)
    assert joined == of(rows)


def test_a_snapshot_without_people_has_no_agreement() -> None:
    found = of([row(annotator_id="")])
    assert (found.num_annotators, found.annotators, found.agreement.agreement) == (0, (), None)


def test_single_images_are_counted_apart_from_the_pairs() -> None:
    single = [row(preference=1.0), row(preference=0.0, split="test"), row(preference=1.0, source="other")]
    found = figures(count_rows([row()]) + count_unpaired(single), votes([row()]), num_pairs=1)
    assert (found.num_pairs, found.num_unpaired) == (1, 3)
    assert found.counts["unpaired"] == {
        **{"other: liked": {"train": 1}, "panel: disliked": {"test": 1}, "panel: liked": {"train": 1}}
    }
    assert found.counts["split"] == {"train": {"train": 1}}
    assert list(found.counts) == list(module.UNITS)
