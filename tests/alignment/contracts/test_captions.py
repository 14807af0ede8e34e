"""A caption spec identifies the snapshot by its contents, and each variant has its own settings."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from alignment.contracts.captions import Captioner, CaptionSpec, GeneratedCaptions, PerturbedPrompts
from alignment.contracts.data import DatasetSnapshot

METHOD = GeneratedCaptions(captioner=Captioner(weights_digest="7" * 64))


def test_the_location_of_the_snapshot_is_not_part_of_the_spec(make_snapshot: Callable[..., DatasetSnapshot]) -> None:
    with pytest.raises(ValidationError, match=r"snapshot.uri must be empty in a caption spec, but is 'file:///s'"):
        CaptionSpec(snapshot=make_snapshot(uri="file:///s"), method=METHOD)


def test_captioner_variant_level_and_seed_change_the_digest(make_snapshot: Callable[..., DatasetSnapshot]) -> None:
    snapshot = make_snapshot(uri="").model_dump()
    methods = [
        {"kind": "dcpo_c", "captioner": {"weights_digest": "7" * 64}},
        {"kind": "dcpo_c", "captioner": {"weights_digest": "8" * 64}},
        {"kind": "dcpo_c", "captioner": {"weights_digest": "7" * 64, "prefix": "a"}},
        {"kind": "dcpo_p", "perturbation": {"level": "weak"}},
        {"kind": "dcpo_p", "perturbation": {"level": "strong"}},
        {"kind": "dcpo_p", "perturbation": {"level": "weak", "seed": 1}},
        {"kind": "dcpo_h", "captioner": {"weights_digest": "7" * 64}, "perturbation": {"level": "weak"}},
    ]
    specs = [CaptionSpec.model_validate({"snapshot": snapshot, "method": method}) for method in methods]
    assert len({spec.digest for spec in specs}) == len(methods)
    assert isinstance(specs[3].method, PerturbedPrompts)


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "dcpo_c"},
        {"kind": "dcpo_p", "perturbation": {"level": "gentle"}},
        {"kind": "dcpo_p", "perturbation": {"level": "weak"}, "captioner": {"weights_digest": "7" * 64}},
        {"kind": "dcpo_h", "captioner": {"weights_digest": "7" * 64}},
        {"kind": "dcpo_x"},
    ],
)
def test_a_variant_accepts_only_its_own_settings(
    method: dict[str, object], make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    snapshot = make_snapshot(uri="").model_dump()
    with pytest.raises(ValidationError):
        CaptionSpec.model_validate({"snapshot": snapshot, "method": method})
