"""DCPO: Diffusion-DPO with a caption of its own for each image. B counts pairs."""

from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.objectives.diffusion_dpo import diffusion_dpo_loss
from alignment.objectives.inputs import ObjectiveOutput, PairErrors


def dcpo_loss(policy: PairErrors, reference: PairErrors, params: DCPO) -> ObjectiveOutput:
    """The Diffusion-DPO loss on errors whose chosen side was predicted under the chosen image's caption, and so on.

    Source: Saeedi et al. 2025 (DCPO-T2I, dcpo_trainer.py), whose loss lines are those of Diffusion-DPO, the factor 0.5
    included; beta absorbs the same constants. That each side has its own caption is the batch's doing: the entry's
    `needs_captions` asks for it. Departure: on a v-prediction base the target is v; the authors' script regresses such
    a base on the noise.
    Returns loss_B in nats and margin_B, the logit.
    """
    return diffusion_dpo_loss(policy, reference, DiffusionDPO(beta=params.beta))
