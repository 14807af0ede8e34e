"""Replay ranking by a judge's embeddings: cosines, probabilities, and the swap of a pair."""

import torch
from recorded import Case

from alignment.labelling.proxy_vote import proxy_votes


def takes(case: Case) -> bool:
    """Embeddings of one text and of its images, with the scores computed from them."""
    return {"image_embs", "text_emb", "scores"} <= set(case.fields)


def replay(case: Case) -> None:
    """Our CLIP judges score exp(logit_scale) * cosine; the recorded selector ranks by the cosine, in the same order."""
    images_ND = torch.nn.functional.normalize(case["image_embs"].float(), dim=1)
    text_1D = torch.nn.functional.normalize(case["text_emb"].float(), dim=1)
    cosines_N = (images_ND * text_1D).sum(dim=1)
    scale = case["logit_scale"].float().exp()
    case.expect("scores", cosines_N, absolute=1e-6)
    case.expect("probs", (scale * cosines_N).softmax(dim=0), absolute=1e-6 * float(scale))
    if "flip" not in case:
        return
    scores: list[float] = case["scores"].tolist()
    votes = [proxy_votes(*_pair(ranked)) for ranked in (scores, [float(scale) * score for score in scores])]
    case.expect("flip", torch.tensor([vote.preferred for vote in votes[0]]))
    case.require("scores in our judge's scale give the same vote", votes[0] == votes[1])
    if votes[0][0].is_tie:
        case.remarks.append("a tie, which the recorded code trains on with image 0 as the winner; ours flags it")


def _pair(scores: list[float]) -> tuple[list[float], list[float]]:
    """Split a list that alternates image 0 and image 1 into the two."""
    return scores[0::2], scores[1::2]
