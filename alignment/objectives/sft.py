"""Supervised fine-tuning on the chosen image. B counts pairs."""

from alignment.catalogues.objectives import SFT
from alignment.objectives.inputs import ObjectiveOutput, PairErrors


def sft_loss(policy: PairErrors, params: SFT) -> ObjectiveOutput:
    """Return the plain denoising error of the chosen image as loss. The rejected image only enters margin_B.

    Source: the `sft` branch of the Diffusion-DPO authors' train.py, which uses preferred images alone: same
    loss, same gradient. margin_B is the rejected error minus the chosen one, in units of mean squared error.
    """
    del params  # SFT has no settings; the argument keeps the common signature
    margin_B = policy.rejected_B - policy.chosen_B
    return ObjectiveOutput(loss_B=policy.chosen_B, margin_B=margin_B.detach())
