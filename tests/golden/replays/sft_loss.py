"""Replay supervised fine-tuning on preferred images."""

from recorded import Case

from alignment.catalogues.objectives import SFT
from alignment.objectives.inputs import PairErrors
from alignment.objectives.sft import sft_loss


def takes(case: Case) -> bool:
    """One prediction per row and a loss, without a second side."""
    return {"model_pred", "target", "loss"} <= set(case.fields) and not {"ref_pred", "model_losses_l"} & set(
        case.fields
    )


def replay(case: Case) -> None:
    """Compare the SFT branch: every row is a preferred image."""
    prediction = case["model_pred"].float().requires_grad_(True)
    errors_B = (prediction - case["target"].float()).square().flatten(1).mean(dim=1)
    loss = sft_loss(PairErrors(errors_B, errors_B.detach()), SFT()).loss_B.mean()
    loss.backward()
    assert prediction.grad is not None
    case.expect("loss", loss)
    case.expect("grad_model_pred", prediction.grad, absolute=1e-9)
