"""The objectives: a frozen params class each. The class is the registry line, the schema and the list of choices."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class ObjectiveParams(BaseModel):
    """What every objective states. `implementation` is imported only where torch is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    implementation: ClassVar[str]
    needs_reference: ClassVar[bool]


class DiffusionDPO(ObjectiveParams):
    """Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908) in the convention of the authors' train.py.

    The logit is 0.5 * beta * (difference of error gains), errors being means over C, H, W: diffusers' SD1.x script
    drops the 0.5, so its beta 2500 is our 5000.
    """

    implementation: ClassVar[str] = "alignment.objectives.diffusion_dpo:diffusion_dpo_loss"
    needs_reference: ClassVar[bool] = True

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: Annotated[float, Field(gt=0)] = 5000.0
    """Strength of the pull towards the reference, per unit of mean squared error; the authors use 2000 to 5000."""
    link: Literal["sigmoid", "hinge"] = "sigmoid"
    """sigmoid: -log sigmoid(logit), the paper's; hinge: max(0, 1 - logit), diffusers' alternative."""


class SFT(ObjectiveParams):
    """Supervised fine-tuning on the chosen image: the plain denoising error, the baseline of the papers."""

    implementation: ClassVar[str] = "alignment.objectives.sft:sft_loss"
    needs_reference: ClassVar[bool] = False

    name: Literal["sft"] = "sft"


OBJECTIVES: tuple[type[ObjectiveParams], ...] = (DiffusionDPO, SFT)
Objective = Annotated[DiffusionDPO | SFT, Field(discriminator="name")]
