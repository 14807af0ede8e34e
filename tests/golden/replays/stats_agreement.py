"""Replay a judge against human labels: agreement, reliability, calibration slope, prediction-powered interval."""

from typing import Any

import numpy as np
import torch
from recorded import Case

from alignment.statistics.agreement import (
    _cohen_kappa,
    _confusion,
    _fleiss_kappa,
    krippendorff_alpha,
    margin_slope,
    prediction_powered_win_rate,
)
from alignment.statistics.calibration import calibrate
from alignment.statistics.noninferiority import share_interval
from alignment.statistics.reward_hacking import rank_correlation

NEEDED = {"human_label", "proxy_margin_labelled", "proxy_margin_unlabelled"}


def takes(case: Case) -> bool:
    """Human labels with a judge's margins on the same and on other prompts."""
    return set(case.params) >= NEEDED


def replay(case: Case) -> None:
    """Compare every recorded figure of the case."""
    ours = _figures(case)
    for name, recorded in case.params["expected"].items():
        case.expect(
            name,
            torch.tensor(np.asarray(ours[name], dtype=np.float64)),
            absolute=case.params["tolerance"],
            relative=0.0,
            against=torch.tensor(recorded, dtype=torch.float64),
        )


def _figures(case: Case) -> dict[str, Any]:
    human, margins = case.params["human_label"], case.params["proxy_margin_labelled"]
    judge = [int(margin > 0) for margin in margins]
    others = [int(margin > 0) for margin in case.params["proxy_margin_unlabelled"]]
    calibration = calibrate(
        "judge",
        score_chosen=[m if h else -m for h, m in zip(human, margins, strict=True)],
        score_rejected=[0.0] * len(margins),
        is_human_tie=[False] * len(margins),
        confidence=0.95,
    )
    powered = prediction_powered_win_rate(human, judge, others, confidence=0.95)
    raters = case.params["raters"]
    return {
        "agreement": calibration.accuracy,
        "agreement_wilson95": [calibration.accuracy_low, calibration.accuracy_high],
        "human_win_rate": sum(human) / len(human),
        "human_win_rate_wilson95": share_interval(sum(human), len(human), confidence=0.95),
        "proxy_win_rate_unlabelled": sum(others) / len(others),
        "ppi_point": powered.win_rate,
        "ppi_ci95": [powered.low, powered.high],
        "logit_intercept_slope": margin_slope(human, margins),
        "confusion_proxy_by_human": _confusion(judge, human),
        "cohens_kappa": _cohen_kappa(judge, human),
        "fleiss_kappa": _fleiss_kappa(raters),
        "krippendorff_alpha_nominal": krippendorff_alpha(raters),
        "spearman": rank_correlation(np.asarray(human), np.asarray(margins), confidence=0.95)[0],
    }
