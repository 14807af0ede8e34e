"""DCPO: Diffusion-DPO with a separate caption for each image. B counts pairs."""

from alignment.catalogues.objectives import DCPO, DiffusionDPO
from alignment.objectives.diffusion_dpo import diffusion_dpo_loss
from alignment.objectives.inputs import ObjectiveOutput, PairErrors


def dcpo_loss(policy: PairErrors, reference: PairErrors, params: DCPO) -> ObjectiveOutput:
    """Return the Diffusion-DPO loss. The errors of each side are predicted under that image's caption.

    Source: Saeedi et al. 2025 (DCPO-T2I, dcpo_trainer.py), whose loss is that of Diffusion-DPO, including the factor
    0.5; beta absorbs the same constants. The batch provides the captions, because the catalogue entry sets
    `needs_captions`. Departure: on a v-prediction base the target is v; the authors' script trains such a base to
    predict the noise.
    Returns loss_B in nats and margin_B, the logit.
    """
    return diffusion_dpo_loss(policy, reference, DiffusionDPO(beta=params.beta))
