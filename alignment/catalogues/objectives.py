"""The objectives: one frozen params class for each. The class is registry entry, schema and list of choices in one."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from alignment.catalogues.record import Record


class ObjectiveParams(Record):
    """Settings of every objective. `implementation` is imported only where torch is installed."""

    implementation: ClassVar[str]
    needs_reference: ClassVar[bool]
    needs_captions: ClassVar[bool] = False
    """If true, each image is trained under its own caption; otherwise both are trained under the pair's prompt."""
    online: ClassVar[bool] = False
    """Train on images that the policy generates and a reward scores, instead of on a feature cache."""
    takes_unpaired: ClassVar[bool] = False
    """Train on likes and dislikes of single images too."""
    title: ClassVar[str]
    """Display name of the method."""
    paper: ClassVar[str] = ""
    """Authors, year and number, e.g. `Wallace et al. 2023, arXiv:2311.12908`."""


class DiffusionDPO(ObjectiveParams):
    """Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908) in the convention of the authors' train.py.

    The logit is 0.5 * beta * (difference of error gains), where errors are means over C, H, W. diffusers' SD1.x script
    drops the 0.5, so its beta 2500 is our 5000.
    """

    implementation: ClassVar[str] = "alignment.objectives.diffusion_dpo:diffusion_dpo_loss"
    needs_reference: ClassVar[bool] = True
    title: ClassVar[str] = "Diffusion-DPO"
    paper: ClassVar[str] = "Wallace et al. 2023, arXiv:2311.12908"

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: Annotated[float, Field(gt=0)] = 5000.0
    """Strength of the pull towards the reference, per unit of mean squared error. The authors use 2000 to 5000.

    For flow matching (SD3, FLUX) the public script uses 100; there is no official setting.
    """
    link: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """sigmoid: -log sigmoid(logit), as in the paper; hinge: max(0, 1 - logit), diffusers' alternative; ipo: (logit -
    1/2)^2, which is smallest at a logit of one half (IPO, arXiv:2310.12036; beta includes its tau)."""


class DCPO(ObjectiveParams):
    """DCPO (Saeedi et al. 2025): the loss of Diffusion-DPO, with each image under its own caption."""

    implementation: ClassVar[str] = "alignment.objectives.dcpo:dcpo_loss"
    needs_reference: ClassVar[bool] = True
    needs_captions: ClassVar[bool] = True
    title: ClassVar[str] = "DCPO"
    paper: ClassVar[str] = "Saeedi et al. 2025, Dual Caption Preference Optimization"

    name: Literal["dcpo"] = "dcpo"
    beta: Annotated[float, Field(gt=0)] = 500.0
    """As in Diffusion-DPO; the authors use 500."""


class MaPO(ObjectiveParams):
    """MaPO (Hong et al. 2024, arXiv:2406.06424) as the authors' code computes it. No reference model."""

    implementation: ClassVar[str] = "alignment.objectives.mapo:mapo_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "MaPO"
    paper: ClassVar[str] = "Hong et al. 2024, arXiv:2406.06424"

    name: Literal["mapo"] = "mapo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the comparison relative to the chosen error. It is the code's beta_mapo, not the paper's beta."""
    snr_value: Annotated[float, Field(gt=0)] = 0.5
    """Factor on the errors inside phi."""
    num_train_timesteps: Annotated[int, Field(gt=0)] = 1000
    """Factor on the difference of phi inside the sigmoid."""


class MaPOPaper(ObjectiveParams):
    """MaPO as the paper states it. Its parameterisation, and the meaning of beta, differ from the authors' code."""

    implementation: ClassVar[str] = "alignment.objectives.mapo:mapo_paper_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "MaPO, as the paper states it"
    paper: ClassVar[str] = "Hong et al. 2024, arXiv:2406.06424"

    name: Literal["mapo_paper"] = "mapo_paper"
    beta: Annotated[float, Field(ge=1)] = 8.0
    """Factor of phi. Best in the paper: 8 general preference, 32 culture, 64 safety and style, 1024 personalisation."""


class PRDP(ObjectiveParams):
    """PRDP (Deng et al. 2024, arXiv:2402.08714): regress reward differences, on images that the policy generates.

    The recipe's `global_batch` is the number of prompts per optimiser step. An epoch samples global_batch *
    num_minibatches prompts and makes updates_per_epoch * num_minibatches optimiser steps.
    """

    implementation: ClassVar[str] = "alignment.objectives.prdp:prdp_loss"
    needs_reference: ClassVar[bool] = True
    online: ClassVar[bool] = True
    title: ClassVar[str] = "PRDP"
    paper: ClassVar[str] = "Deng et al. 2024, arXiv:2402.08714"

    name: Literal["prdp"] = "prdp"
    reward: Annotated[str, Field(min_length=1)]
    """Name of the project's scorer whose score is maximised. It may not judge the trained model."""
    beta: Annotated[float, Field(gt=0)]
    """Strength of the pull towards the reference, in reward units per nat of the mean log-ratio of a step."""
    clip_range: Annotated[float, Field(gt=0)]
    """Maximum counted change of a step's log-probability from the weights that generated the image, nats."""
    images_per_prompt: Annotated[int, Field(ge=2)]
    """Images generated for each prompt. Every two with different rewards form a pair."""
    updates_per_epoch: Annotated[int, Field(gt=0)] = 1
    """Passes over the images of an epoch; the paper's K."""
    num_minibatches: Annotated[int, Field(gt=0)] = 1
    """Optimiser steps in each pass. With one pass and one minibatch the clip never takes effect."""
    sampler_steps: Annotated[int, Field(ge=2)] = 50
    """Steps of the ancestral sampler. The last step has no density and is left out of the likelihood."""
    guidance_scale: Annotated[float, Field(ge=1)] = 5.0
    """Classifier-free guidance scale for both policy and reference; 1 means none."""


class SFT(ObjectiveParams):
    """Supervised fine-tuning on the chosen image: the plain denoising error, the baseline in the papers."""

    implementation: ClassVar[str] = "alignment.objectives.sft:sft_loss"
    needs_reference: ClassVar[bool] = False
    title: ClassVar[str] = "supervised fine-tuning on the chosen images"

    name: Literal["sft"] = "sft"


OBJECTIVES: tuple[type[ObjectiveParams], ...] = (DiffusionDPO, DCPO, MaPO, MaPOPaper, PRDP, SFT)
Objective = Annotated[DiffusionDPO | DCPO | MaPO | MaPOPaper | PRDP | SFT, Field(discriminator="name")]


def check_captions(params: ObjectiveParams, num_captioned: int | None, origin: str) -> None:
    """ValueError when an objective needs a caption for each image and `origin` is known to hold none."""
    if params.needs_captions and num_captioned == 0:
        name = type(params).model_fields["name"].default
        raise ValueError(
            f"Objective {name!r} trains each image under its own caption, but {origin} has no such captions: every"
            " image has its pair's prompt as caption. Add [captions] to the project file (variant, and the captioner"
            " and level that it needs), or add the columns caption_0 and caption_1 to the source and ingest it again,"
            " or use an objective that trains on prompts, e.g. 'diffusion_dpo'."
        )
