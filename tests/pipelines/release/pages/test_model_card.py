"""The model card: the hub reads it, licences are carried over, nothing from outside becomes markup."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from alignment.config import load_recipe
from alignment.contracts.data import DatasetSnapshot
from pipelines.project.file import Project, load_project
from pipelines.project.sections import SourceSection
from pipelines.release.pages.model_card import (
    Exported,
    _hub_repository,
    _Licences,
    escaped,
    render_card,
    render_export_card,
)
from pipelines.release.pages.provenance import Provenance

ROOT = Path(__file__).parents[4]
REVISION = "0" * 40


@pytest.fixture
def project() -> Project:
    return load_project(ROOT / "projects/shapes.toml")


@pytest.fixture
def known(make_snapshot: Callable[..., DatasetSnapshot]) -> Callable[..., Provenance]:
    """A source of a given name and licence, its snapshot, and a recipe."""

    def make(*, licence: str = "CC0-1.0", name: str = "shapes_pairs") -> Provenance:
        num_pairs = {"train": 30, "calibration": 20, "test": 10}
        snapshot = make_snapshot(num_pairs=num_pairs, num_prompts=55, sources=(name,), licences=(licence,))
        source = SourceSection(name=name, kind="pick_a_pic", uri="/data/pairs", licence=licence)
        return Provenance(sources=(source,), snapshot=snapshot, recipes=(load_recipe("diffusion_dpo_shapes"),))

    return make


def card_of(evaluation: Any, decision: Any, project: Project, provenance: Provenance) -> ModelCard:
    # A card that the hub's own reader takes apart; its validation would ask the hub.
    return ModelCard(render_card(evaluation.report, decision, project, provenance), ignore_metadata_errors=False)


def test_the_hub_reads_the_front_matter(
    good_evaluation: Any, good_decision: Any, project: Project, known: Callable[..., Provenance]
) -> None:
    data = card_of(good_evaluation, good_decision, project, known()).data
    shown = data.to_dict()
    assert [shown[key] for key in ("license", "library_name", "pipeline_tag")] == [
        "apache-2.0",
        "diffusers",
        "text-to-image",
    ]
    assert data.tags == ["text-to-image", "preference-alignment", "diffusion-dpo", "lora"]
    assert data.datasets == ["shapes_pairs"]
    assert data.base_model is None


def test_a_base_of_the_hub_is_named_with_its_revision(
    good_evaluation: Any, good_decision: Any, project: Project, known: Callable[..., Provenance]
) -> None:
    base = project.base.model_copy(update={"uri": f"hub://owner/model@{REVISION}"})
    hub = project.model_copy(update={"base": base})
    card = card_of(good_evaluation, good_decision, hub, known())
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("owner/model", "adapter")
    assert f'from_pretrained("owner/model", revision="{REVISION}", use_safetensors=True)' in card.text
    assert 'pipeline.load_lora_weights("weights")' in card.text


def test_the_card_has_verdict_checks_licences_method_and_limits(
    good_evaluation: Any, good_decision: Any, project: Project, known: Callable[..., Provenance]
) -> None:
    text = card_of(good_evaluation, good_decision, project, known(licence="CC-BY-NC-4.0")).text
    assert "**Gate: promote.** Version 4 of shapes is better than the base model." in text
    assert "| base model | Apache-2.0 |" in text
    assert "| pairs | CC-BY-NC-4.0 |" in text
    assert "arXiv:2311.12908" in text
    assert "| win rate: taste\\_a |" in text
    assert "200 of the evaluation" in text
    for digest in (good_decision.scores_digest, good_decision.policy_digest, good_decision.candidate.weights_digest):
        assert digest in text
    refused = good_decision.model_copy(update={"verdict": "hold", "reasons": ("A guard broke.",)})
    assert "- A guard broke." in card_of(good_evaluation, refused, project, known()).text


@pytest.mark.parametrize(
    ("base", "data", "front"),
    [
        ("Apache-2.0", ("CC0-1.0",), {"license": "apache-2.0"}),
        ("MIT", ("mit",), {"license": "mit"}),
        ("Apache-2.0", ("CC-BY-NC-4.0",), {"license": "other", "license_name": "apache-2.0-and-cc-by-nc-4.0"}),
        ("My own terms", (), {"license": "other", "license_name": "my-own-terms"}),
    ],
)
def test_a_licence_stands_alone_only_where_the_data_adds_none(
    base: str, data: tuple[str, ...], front: dict[str, str]
) -> None:
    assert _Licences(base, data).hub() == front


def test_names_from_outside_stay_text(
    good_evaluation: Any, good_decision: Any, project: Project, known: Callable[..., Provenance]
) -> None:
    nasty = "a | b\n# <script>x</script> [link](http://evil) `code`"
    text = card_of(good_evaluation, good_decision, project, known(name=nasty, licence=nasty)).text
    assert "<script>" not in text
    assert "[link]" not in text
    assert "\n# <" not in text
    assert escaped("*a*\n\nb|c") == r"\*a\* b\|c"


def test_a_store_without_traces_still_gives_a_card(good_evaluation: Any, good_decision: Any, project: Project) -> None:
    card = card_of(good_evaluation, good_decision, project, Provenance())
    assert card.data.datasets == ["shapes_pairs"]
    assert good_decision.candidate.spec_digest in card.text


def test_hub_addresses() -> None:
    assert _hub_repository(f"hub://a/b@{REVISION}") == ("a/b", REVISION)
    assert _hub_repository("/models/a") == ("", "")


@pytest.mark.parametrize(
    ("format", "kind", "files", "says"),
    [
        ("diffusers", "lora", ("pytorch_lora_weights.safetensors",), 'pipeline.load_lora_weights("owner/name")'),
        ("diffusers", "full", ("unet/config.json",), 'from_pretrained("owner/name", subfolder="unet", use_safetensors'),
        ("kohya", "lora", ("a.safetensors",), "`a.safetensors` has the names of kohya's scripts"),
        ("comfyui", "lora", ("a.safetensors",), "models/loras"),
        ("comfyui", "full", ("a.safetensors",), "models/diffusion_models"),
    ],
)
def test_the_card_of_an_export_says_how_to_load_its_files(
    good_evaluation: Any,
    good_decision: Any,
    project: Project,
    known: Callable[..., Provenance],
    *,
    format: str,
    kind: str,
    files: tuple[str, ...],
    says: str,
) -> None:
    candidate = good_decision.candidate.model_copy(update={"kind": kind})
    for judged in ((good_evaluation.report, good_decision), None):
        text = render_export_card(
            candidate, project, known(), judged=judged, exported=Exported(format, files, "owner/name")
        )
        card = ModelCard(text, ignore_metadata_errors=False)
        assert says in card.text
        assert card.data.library_name == ("diffusers" if format == "diffusers" else None)
        assert (format in (card.data.tags or [])) == (format != "diffusers")
        assert ("**No verdict.**" in card.text) == (judged is None)
        assert good_decision.report_uri not in card.text
        assert "mlflow" not in card.text
