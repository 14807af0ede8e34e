"""The table [captions] of the project file."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from alignment.contracts.captions import Level, Variant
from pipelines.project.paths import LocalPath
from pipelines.project.sections import Section


class CaptionsSection(Section):
    """A separate text for each image of a pair, for recipes that train each image with its own text (DCPO)."""

    variant: Variant
    """dcpo_c: captions of both images; dcpo_p: the prompt, perturbed for the rejected image; dcpo_h: captions of both
    images, perturbed for the rejected one."""
    captioner: LocalPath | None = None
    """Image-to-text model of transformers' BLIP class: local folder, s3://... or hub://owner/name@sha. Not allowed for
    dcpo_p."""
    level: Level | None = None
    """Strength of the perturbation. Not allowed for dcpo_c."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the perturbation. The captions themselves are not random."""
    prefix: str = ""
    """Text that every caption starts with."""
    num_beams: Annotated[int, Field(gt=0)] = 1
    """Beams of the caption search."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 30
    """Longest caption, in tokens."""

    @model_validator(mode="after")
    def _states_what_its_variant_takes(self) -> Self:
        problems = []
        if (self.captioner is None) != (self.variant == "dcpo_p"):
            problems.append("allows no captioner" if self.captioner else 'needs captioner = "FOLDER"')
        if (self.level is None) != (self.variant == "dcpo_c"):
            problems.append("allows no level" if self.level else 'needs level = "weak", "medium" or "strong"')
        if problems:
            raise ValueError(f"variant {self.variant!r} {' and '.join(problems)}")
        return self
