"""The objectives: a frozen params class each. The class is the registry line, the schema and the list of choices."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class ObjectiveParams(BaseModel):
    """What every objective states. `implementation` is imported only where torch is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    implementation: ClassVar[str]
    needs_reference: ClassVar[bool]
    needs_captions: ClassVar[bool] = False
    """Each image is trained under its own caption; without it both are trained under the pair's prompt."""
    online: ClassVar[bool] = False
    """Trains on images that the policy draws itself and a reward scores, instead of on a feature cache."""
    title: ClassVar[str]
    """The method's name, for people."""
    paper: ClassVar[str] = ""
    """Authors, year and number, e.g. `Wallace et al. 2023, arXiv:2311.12908`."""


class DiffusionDPO(ObjectiveParams):
    """Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908) in the convention of the authors' train.py.

    The logit is 0.5 * beta * (difference of error gains), errors being means over C, H, W: diffusers' SD1.x script
    drops the 0.5, so its beta 2500 is our 5000.
    """

    implementation: ClassVar[str] = "alignment.objectives.diffusion_dpo:diffusion_dpo_loss"
    needs_reference: ClassVar[bool] = True
    title: ClassVar[str] = "Diffusion-DPO"
    paper: ClassVar[str] = "Wallace et al. 2023, arXiv:2311.12908"

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: Annotated[float, Field(gt=0)] = 5000.0
    """Strength of the pull towards the reference, per unit of mean squared error; the authors use 2000 to 5000.

    For flow matching (SD3, FLUX) the public script takes 100; there is no official setting.
    """
    link: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """sigmoid: -log sigmoid(logit), the paper's; hinge: max(0, 1 - logit), diffusers' alternative; ipo: (logit -
    1/2)^2, which wants a pair told apart by half a logit and no more (IPO, arXiv:2310.12036; beta holds its tau)."""


class DCPO(ObjectiveParams):
    """DCPO (Saeedi et al. 2025): the loss of Diffusion-DPO, each image under its own caption."""

    implementation: ClassVar[str] = "alignment.objectives.dcpo:dcpo_loss"
    needs_reference: ClassVar[bool] = True
    needs_captions: ClassVar[bool] = True
    title: ClassVar[str] = "DCPO"
    paper: ClassVar[str] = "Saeedi et al. 2025, Dual Caption Preference Optimization"

    name: Literal["dcpo"] = "dcpo"
    beta: Annotated[float, Field(gt=0)] = 500.0
    """As Diffusion-DPO's; the authors use 500."""


class MaPO(ObjectiveParams):
    """MaPO (Hong et al. 2024, arXiv:2406.06424) as the authors' code computes it. No reference model."""

    implementation: ClassVar[str] = "alignment.objectives.mapo:mapo_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "MaPO"
    paper: ClassVar[str] = "Hong et al. 2024, arXiv:2406.06424"

    name: Literal["mapo"] = "mapo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the comparison against the chosen error; the code's beta_mapo, not the paper's beta."""
    snr_value: Annotated[float, Field(gt=0)] = 0.5
    """Factor on the errors inside phi."""
    num_train_timesteps: Annotated[int, Field(gt=0)] = 1000
    """Factor on the difference of phi inside the sigmoid."""


class MaPOPaper(ObjectiveParams):
    """MaPO as the paper states it; another parameterisation than the code's, with a beta of another meaning."""

    implementation: ClassVar[str] = "alignment.objectives.mapo:mapo_paper_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "MaPO, as the paper states it"
    paper: ClassVar[str] = "Hong et al. 2024, arXiv:2406.06424"

    name: Literal["mapo_paper"] = "mapo_paper"
    beta: Annotated[float, Field(ge=1)] = 8.0
    """Power of phi. The paper's best: 8 general preference, 32 culture, 64 safety and style, 1024 personalisation."""


class PRDP(ObjectiveParams):
    """PRDP (Deng et al. 2024, arXiv:2402.08714): regress reward differences, on images that the policy draws itself.

    The recipe's `global_batch` counts prompts of an optimiser step. An epoch draws global_batch * num_minibatches
    prompts and makes updates_per_epoch * num_minibatches optimiser steps.
    """

    implementation: ClassVar[str] = "alignment.objectives.prdp:prdp_loss"
    needs_reference: ClassVar[bool] = True
    online: ClassVar[bool] = True
    title: ClassVar[str] = "PRDP"
    paper: ClassVar[str] = "Deng et al. 2024, arXiv:2402.08714"

    name: Literal["prdp"] = "prdp"
    reward: Annotated[str, Field(min_length=1)]
    """Name of the project's scorer whose score is maximised; it may not judge what it trained."""
    beta: Annotated[float, Field(gt=0)]
    """Strength of the pull towards the reference, in units of the reward per nat of mean log-ratio of a step."""
    clip_range: Annotated[float, Field(gt=0)]
    """How far a step's log-probability counts beyond that of the weights that drew the image, nats."""
    images_per_prompt: Annotated[int, Field(ge=2)]
    """Images drawn for each prompt; every two of different reward make a pair."""
    updates_per_epoch: Annotated[int, Field(gt=0)] = 1
    """Passes over the images of an epoch; the paper's K."""
    num_minibatches: Annotated[int, Field(gt=0)] = 1
    """Optimiser steps a pass is split in. With one pass and one minibatch the clip never acts."""
    sampler_steps: Annotated[int, Field(ge=2)] = 50
    """Steps of the ancestral sampler; the last one has no density and is left out of the likelihood."""
    guidance_scale: Annotated[float, Field(ge=1)] = 5.0
    """Classifier-free guidance of policy and reference alike; 1 means none."""


class SFT(ObjectiveParams):
    """Supervised fine-tuning on the chosen image: the plain denoising error, the baseline of the papers."""

    implementation: ClassVar[str] = "alignment.objectives.sft:sft_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "supervised fine-tuning on the chosen images"

    name: Literal["sft"] = "sft"


OBJECTIVES: tuple[type[ObjectiveParams], ...] = (DiffusionDPO, DCPO, MaPO, MaPOPaper, PRDP, SFT)
Objective = Annotated[DiffusionDPO | DCPO | MaPO | MaPOPaper | PRDP | SFT, Field(discriminator="name")]


def check_captions(params: ObjectiveParams, num_captioned: int | None, origin: str) -> None:
    """ValueError when an objective needs a caption of each image and `origin` is known to hold none."""
    if params.needs_captions and num_captioned == 0:
        name = type(params).model_fields["name"].default
        raise ValueError(
            f"Objective {name!r} trains each image under its own caption, but {origin} has no such captions: every"
            " image carries its pair's prompt. Add [captions] to the project file (variant, and the captioner and level"
            " that it takes), give the source columns caption_0 and caption_1 and ingest it again, or take an objective"
            " that trains on prompts, e.g. 'diffusion_dpo'."
        )
