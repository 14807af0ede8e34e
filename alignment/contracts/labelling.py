"""Value objects for pairs without human labels: machine-labelled, or generated from templates. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import Sampler, check_sampler
from alignment.contracts.judges import Judge
from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject

HeuristicName = Literal["brightness", "colourfulness", "contrast", "sharpness"]
"""A number computed from an image's pixels; see alignment/labelling/heuristics.py. Higher counts as better."""
PROMPT_FIELD = "{prompt}"


class ProxyVoting(Record):
    """The ranking of one judge is the label; equal scores are ties. Human labels of these pairs are not used."""

    kind: Literal["proxy_vote"] = "proxy_vote"


class LabelModel(Record):
    """Combine several noisy labelers and a few human labels into one label per pair, each with a confidence."""

    kind: Literal["label_model"] = "label_model"
    heuristics: tuple[HeuristicName, ...] = ()
    """Labelers that use pixels alone, in addition to the judges."""
    crowd: bool = False
    """If true, each annotator of a source that is not in `human_sources` is one more labeler."""
    human_labels: PositiveInt | None = None
    """Maximum number of human labels used, selected by the seed. None uses all in the training split."""
    minimum_human_labels: PositiveInt = 50
    """With fewer human labels the quality of labelers cannot be measured, and the job is refused."""
    minimum_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.7
    """A pair whose likelier label is less probable than this becomes a tie. Training skips ties."""
    labels_from: Literal["label_model", "human_baseline"] = "label_model"
    """Origin of the labels that are written. The report measures both, so you can choose by accuracy."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of human labels and of the fit."""


LabelMethod = Annotated[ProxyVoting | LabelModel, Field(discriminator="kind")]


class LabelSpec(ValueObject):
    """Labelers for the training pairs of a snapshot, and the method that combines them."""

    snapshot: DatasetSnapshot
    """The snapshot before relabelling, with an empty uri: its location changes no label."""
    judges: tuple[Judge, ...]
    method: LabelMethod
    relabelled_sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Sources whose training pairs get new labels. Pairs of other sources keep their labels."""
    human_sources: tuple[str, ...] = ()
    """Sources whose labels in the training split count as human truth. Their ties do not count as labels."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of the intervals in the report."""

    @model_validator(mode="after")
    def _check_labelers(self) -> Self:
        check_labelers(self.method, len(self.judges))
        return self

    @property
    def training_sources(self) -> tuple[str, ...]:
        """Return what a model learns from with these labels: the sources of every voting judge, and the heuristics."""
        heuristics = self.method.heuristics if isinstance(self.method, LabelModel) else ()
        named = {source for judge in self.judges for source in judge.training_sources}
        return tuple(sorted(named | {f"heuristic {name}" for name in heuristics}))


def check_labelers(method: LabelMethod, num_judges: int) -> None:
    """ValueError unless a proxy vote has one judge and a label model has two labelers or a crowd."""
    if isinstance(method, ProxyVoting):
        if num_judges != 1:
            raise ValueError(f"A proxy vote needs 1 judge, but {num_judges} are named. Name one, or use a label model.")
        return
    labelers = num_judges + len(method.heuristics)
    if labelers < 2 and not method.crowd:
        raise ValueError(
            f"A label model needs at least 2 labelers to compare, but {labelers} are named: add judges, heuristics"
            " (brightness, colourfulness, contrast, sharpness) or crowd = true."
        )


class LabelAccuracy(Record):
    """Accuracy of a labeler, or of a way to combine labelers, on held-out human pairs."""

    name: str
    """A labeler, or `majority_vote`, `label_model` (votes alone), `label_model_with_human_labels`, `human_baseline`."""
    num_pairs: int
    """Held-out human pairs, without human ties."""
    num_undecided: int
    """Pairs among these that it does not label; they count as half right."""
    accuracy: float
    accuracy_low: float
    """Wilson bound at the spec's confidence."""
    accuracy_high: float


class LabelReport(ValueObject):
    """Counts and measured accuracy of a labelling: label_report.json beside the relabelled pairs.

    Held-out pairs are those of the calibration and test splits. No label from them is used.
    """

    spec_digest: Sha256
    labels_from: str
    """Name of the entry in `accuracies` whose labels were written."""
    num_human_labels: int
    """Human labels that were used. The output keeps them unchanged."""
    accuracies: tuple[LabelAccuracy, ...]
    heldout_kept_share: Share
    """Share of held-out pairs on which the confidence reaches `minimum_confidence`."""
    heldout_kept_accuracy: Share | None
    """Accuracy on these pairs; None where there are none."""
    num_labelled: int
    """Training pairs that got a machine label."""
    num_below_confidence: int
    """Training pairs whose label was too uncertain; they became ties."""
    num_without_opinion: int
    """Training pairs that no labeler labelled, or on which labelers were evenly split; they became ties."""
    num_untouched: int
    """Training pairs of sources that were not to be relabelled."""
    warnings: tuple[str, ...] = ()

    def accuracy_of(self, name: str) -> LabelAccuracy:
        """Return the accuracy of that name; KeyError when there is none."""
        return {line.name: line for line in self.accuracies}[name]


# --- pairs generated from templates -----------------------------------------------------------------------------------


class DrawSpec(ValueObject):
    """Pairs whose chosen image is generated from the prompt with a style or safety text, the rejected one without it.

    Source: Hong et al. 2024 (MaPO), arXiv:2406.06424, Pick-Style and Pick-Safety. The two images of a pair start from
    the same noise, so they differ by the text alone; the paper does not state how it generates them.
    """

    base_digest: Sha256
    backbone: Backbone
    prompts_digest: Sha256
    """sha256 of the prompts file: UTF-8, one prompt per line."""
    chosen_template: str
    rejected_template: str = PROMPT_FIELD
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler
    source: str
    licence: str
    shard_pairs: PositiveInt = 256
    """Pairs in one parquet file. A process generates complete files."""

    @model_validator(mode="after")
    def _check_request(self) -> Self:
        check_templates(self.chosen_template, self.rejected_template)
        check_sampler(self.backbone, self.sampler)
        return self


def check_templates(chosen: str, rejected: str) -> None:
    """Check two templates. ValueError unless both contain {prompt} and they differ."""
    for name, template in (("chosen_template", chosen), ("rejected_template", rejected)):
        if PROMPT_FIELD not in template:
            raise ValueError(
                f"{name} is {template!r} and does not contain {PROMPT_FIELD}. Write {PROMPT_FIELD} in it, e.g."
                f" {PROMPT_FIELD + ', in pixel art style'!r}."
            )
    if chosen == rejected:
        raise ValueError(f"chosen_template and rejected_template are both {chosen!r}; they must differ.")


def fill_template(template: str, prompt: str) -> str:
    """Return the template with {prompt} replaced by the prompt. Other braces stay unchanged."""
    return template.replace(PROMPT_FIELD, prompt)


class DrawnPairs(ValueObject):
    """Result of generating pairs: pairs-00000.parquet and so on, in the columns of Pick-a-Pic v2."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    num_pairs: PositiveInt
    num_blank: int
    """Pairs left out because an image has only one colour."""
