"""Value objects of pairs without human labels: labelled by judges and heuristics, or drawn to order. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import Sampler, check_sampler
from alignment.contracts.judges import Judge
from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject

HeuristicName = Literal["brightness", "colourfulness", "contrast", "sharpness"]
"""A number for an image from its pixels alone; alignment/labelling/heuristics.py says which. More counts as better."""
PROMPT_FIELD = "{prompt}"


class ProxyVoting(Record):
    """One judge's order is the label; equal scores are ties. Human labels of these pairs are not used."""

    kind: Literal["proxy_vote"] = "proxy_vote"


class LabelModel(Record):
    """Several noisy labelers and a few human labels become one label a pair, each with a confidence."""

    kind: Literal["label_model"] = "label_model"
    heuristics: tuple[HeuristicName, ...] = ()
    """Labelers that look at pixels alone, beside the judges."""
    crowd: bool = False
    """Whether annotators of sources that are no human source vote too, each a labeler of their own."""
    human_labels: PositiveInt | None = None
    """Most human labels used; which ones is a function of the seed. None uses all that the training split has."""
    minimum_human_labels: PositiveInt = 50
    """With fewer there is nothing to tell a good labeler from a bad one by, and the job is refused."""
    minimum_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.7
    """A pair whose likelier label is less probable than this becomes a tie, which nothing trains on."""
    labels_from: Literal["label_model", "human_baseline"] = "label_model"
    """Whose labels are written; the report has both, so that the choice can be made on figures."""
    seed: Annotated[int, Field(ge=0)] = 0


LabelMethod = Annotated[ProxyVoting | LabelModel, Field(discriminator="kind")]


class LabelSpec(ValueObject):
    """Who labels the training pairs of a snapshot, and how."""

    snapshot: DatasetSnapshot
    """The plain snapshot; its uri is empty, for where it lies changes no label."""
    judges: tuple[Judge, ...]
    method: LabelMethod
    relabelled_sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Sources whose training pairs get new labels; pairs of the others keep theirs."""
    human_sources: tuple[str, ...] = ()
    """Sources whose labels in the training split count as human truth; a tie there is no label."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of the intervals in the report."""

    @model_validator(mode="after")
    def _has_its_labelers(self) -> Self:
        check_labelers(self.method, len(self.judges))
        return self

    @property
    def lessons(self) -> tuple[str, ...]:
        """What a model learns from these labels: every judge that had a vote, under any name, and its own lessons."""
        heuristics = self.method.heuristics if isinstance(self.method, LabelModel) else ()
        named = {lesson for judge in self.judges for lesson in judge.lessons}
        return tuple(sorted(named | {f"heuristic {name}" for name in heuristics}))


def check_labelers(method: LabelMethod, num_judges: int) -> None:
    """ValueError unless a proxy vote has one judge, and a label model two labelers or a crowd to find them in."""
    if isinstance(method, ProxyVoting):
        if num_judges != 1:
            raise ValueError(f"A proxy vote is one judge's; {num_judges} are named. Name one, or use a label model.")
        return
    labelers = num_judges + len(method.heuristics)
    if labelers < 2 and not method.crowd:
        raise ValueError(
            f"A label model needs 2 labelers at least to compare, {labelers} named: add judges, heuristics"
            " (brightness, colourfulness, contrast, sharpness) or crowd = true."
        )


class LabelAccuracy(Record):
    """How often a labeler, or a way to join them, says what people said of held-out pairs."""

    name: str
    """A labeler, or `majority_vote`, `label_model` (votes alone), `label_model_with_human_labels`, `human_baseline`."""
    num_pairs: int
    """Held-out human pairs; human ties are left out."""
    num_undecided: int
    """Of these, those on which it has no opinion; they count as half right."""
    accuracy: float
    accuracy_low: float
    """Wilson bound at the spec's confidence."""
    accuracy_high: float


class LabelReport(ValueObject):
    """What a labelling did and what it is worth: label_report.json beside the relabelled pairs.

    Held-out pairs are those of the calibration and test splits, which no label was taken from.
    """

    spec_digest: Sha256
    labels_from: str
    """Name of the line in `accuracies` whose labels were written."""
    num_human_labels: int
    """Human labels that were used; they stand in the output as people gave them."""
    accuracies: tuple[LabelAccuracy, ...]
    heldout_kept_share: Share
    """Held-out pairs on which the written labels' confidence would have sufficed."""
    heldout_kept_accuracy: Share | None
    """Accuracy on these; None where there are none."""
    num_labelled: int
    """Training pairs that got a label of a machine."""
    num_below_confidence: int
    """Training pairs whose label was too uncertain; they are ties now."""
    num_without_opinion: int
    """Training pairs of which no labeler said anything, or on which they were even; they are ties now."""
    num_untouched: int
    """Training pairs of sources that were not to be relabelled."""
    warnings: tuple[str, ...] = ()

    def accuracy_of(self, name: str) -> LabelAccuracy:
        """The line of that name; KeyError when there is none."""
        return {line.name: line for line in self.accuracies}[name]


# --- pairs drawn to order ---------------------------------------------------------------------------------------------


class DrawSpec(ValueObject):
    """Pairs whose chosen image is drawn with a style or a safety prompt added, the rejected one with the plain prompt.

    Source: Hong et al. 2024 (MaPO), arXiv:2406.06424, Pick-Style and Pick-Safety. The two images of a pair start from
    the same noise, so that they differ by the words alone; the paper does not say how it draws.
    """

    base_digest: Sha256
    backbone: Backbone
    prompts_digest: Sha256
    """sha256 of the prompts file: UTF-8, one prompt a line."""
    chosen_template: str
    rejected_template: str = PROMPT_FIELD
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler
    source: str
    licence: str
    shard_pairs: PositiveInt = 256
    """Pairs in one parquet file; a process draws whole files."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        check_templates(self.chosen_template, self.rejected_template)
        check_sampler(self.backbone, self.sampler)
        return self


def check_templates(chosen: str, rejected: str) -> None:
    """ValueError unless both hold {prompt} and they differ."""
    for name, template in (("chosen_template", chosen), ("rejected_template", rejected)):
        if PROMPT_FIELD not in template:
            raise ValueError(
                f"{name} is {template!r} and does not say where the prompt goes. Write {PROMPT_FIELD} in it, e.g."
                f" {PROMPT_FIELD + ', in pixel art style'!r}."
            )
    if chosen == rejected:
        raise ValueError(f"chosen_template and rejected_template are both {chosen!r}; nothing would be preferred.")


def filled(template: str, prompt: str) -> str:
    """The template with the prompt in its place; other braces are left alone."""
    return template.replace(PROMPT_FIELD, prompt)


class DrawnPairs(ValueObject):
    """What a drawing leaves: pairs-00000.parquet and so on, in the columns of Pick-a-Pic v2."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    num_pairs: PositiveInt
    num_blank: int
    """Pairs left out because an image came out in one single colour."""
