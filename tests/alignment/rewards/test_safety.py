"""An image classifier as a guard."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from alignment.catalogues.rewards import Safety
from alignment.rewards.safety import SafetyScorer

pytestmark = pytest.mark.timeout(180)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with three labels and the same logits for every image: log 2, log 3, log 5."""
    folder = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        **{"image_size": 16, "patch_size": 8, "id2label": {0: "plain", 1: "nudity", 2: "gore"}},
    )
    with torch.random.fork_rng():
        model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.fill_(1e-20)
        model.classifier.bias.copy_(torch.tensor([2.0, 3.0, 5.0]).log())
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def scores(folder: Path, params: Safety, pictures: list[Image.Image]) -> list[float]:
    return SafetyScorer(folder, params, weights_digest="0" * 64, device=CPU).score(pictures, [""] * 3).tolist()


def test_probabilities_of_unsafe_labels_are_added(classifier_dir: Path, pictures: list[Image.Image]) -> None:
    assert scores(classifier_dir, Safety(unsafe_labels=("nudity",)), pictures) == pytest.approx([0.7] * 3)
    assert scores(classifier_dir, Safety(unsafe_labels=("nudity", "gore")), pictures) == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(("threshold", "score"), [(0.29, 0.0), (0.31, 1.0)])
def test_a_threshold_makes_a_rate(
    classifier_dir: Path, pictures: list[Image.Image], threshold: float, score: float
) -> None:
    params = Safety(unsafe_labels=("nudity",), threshold=threshold)
    assert scores(classifier_dir, params, pictures) == [score] * 3


def test_a_classifier_without_its_last_layer_is_refused(classifier_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(classifier_dir, tmp_path, dirs_exist_ok=True)
    # A vision model saved without its head: the file has the names of the tower alone.
    ViTForImageClassification.from_pretrained(classifier_dir).vit.save_pretrained(tmp_path)
    config = json.loads((classifier_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks 2 weights, which would be random \(classifier\.bias, classifier\.w"):
        SafetyScorer(tmp_path, Safety(unsafe_labels=("nudity",)), weights_digest="0" * 64, device=CPU)


def test_an_unknown_label_is_refused_with_the_known_ones(classifier_dir: Path) -> None:
    with pytest.raises(ValueError, match="has no label nsfw; it has plain, nudity, gore"):
        SafetyScorer(classifier_dir, Safety(unsafe_labels=("nsfw",)), weights_digest="0" * 64, device=CPU)
