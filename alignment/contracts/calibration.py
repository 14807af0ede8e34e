"""Value objects of a judge's calibration: its agreement with people as a record of its own. Torch-free, plain JSON."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from alignment.contracts.judges import Judge
from alignment.contracts.values import Record, Sha256, ValueObject


class Calibration(Record):
    """Agreement of a judge with held-out people; their ties are left out, a judge's tie counts as half right."""

    judge: str
    num_pairs: int
    """Comparisons with a majority: several people's labels of one comparison are one."""
    num_human_ties: int
    accuracy: float
    accuracy_low: float
    """Lower Wilson bound at the evaluation's confidence, pairs of one prompt being dependent."""
    accuracy_high: float


TieRule = Literal["human_ties_left_out_judge_ties_half"]
"""Pairs on which people saw no difference say nothing of a judge; a judge's equal scores count as half right."""


class CalibrationSpec(ValueObject):
    """Judges against the calibration split of a snapshot."""

    schema_version: int = 2
    judges: Annotated[tuple[Judge, ...], Field(min_length=1)]
    snapshot_digest: Sha256
    """content_digest of the snapshot."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of every interval."""
    tie_rule: TieRule = "human_ties_left_out_judge_ties_half"


class AgreementSlice(Record):
    """A judge's agreement within a part of the pairs."""

    by: Literal["source", "generators"]
    """source: where the pairs came from; generators: the one or two models that drew them (base family)."""
    name: str
    """Of generators both, sorted, as `a | b`; `unknown` where a pair names none."""
    agreement: Calibration


class RaterReliability(Record):
    """How far people agree with each other: what no judge can be asked to exceed by much."""

    num_shared_pairs: int
    """Comparisons (two images and a prompt) that two people or more labelled."""
    num_labels: int
    """Their labels of those."""
    alpha: float | None
    """Krippendorff's alpha of nominal labels, ties being a label: 1 is perfect, 0 is chance. None without
    shared pairs."""


class JudgeCalibration(ValueObject):
    """What one judge has shown against people."""

    judge: Judge
    snapshot_digest: Sha256
    confidence: float
    tie_rule: TieRule
    overall: Calibration
    slices: tuple[AgreementSlice, ...]
    """Every source and every couple of generators, by falling number of pairs."""
    margin_slope: float | None
    """Slope of a logistic fit of the human label on the judge's margin in standard deviations; a change between
    calibrations of one judge is drift. None where the fit does not exist."""
    newest_pair_at: AwareDatetime | None
    """When the newest of the human pairs was labelled; None where no pair has a date."""

    def shows(self, human_win_rate: float) -> float:
        """The win rate that this judge shows where people's is `human_win_rate`: the attenuation line."""
        return human_win_rate * self.overall.accuracy + (1 - human_win_rate) * (1 - self.overall.accuracy)


class CalibrationReport(ValueObject):
    """What a calibration measured. The folder holds calibration_scores.parquet and spec.json.

    calibration_scores.parquet has one row per (judge, pair): judge, pair_id, score_chosen, score_rejected, is_tie,
    source, generators, created_at, comparison, chosen_is_first, prompt_group. All but the raters' comes from it.
    """

    uri: str
    spec: CalibrationSpec
    scores_digest: Sha256
    """sha256 of calibration_scores.parquet."""
    reliability: RaterReliability
    judges: tuple[JudgeCalibration, ...]
    problems: tuple[str, ...] = ()
    """A sentence per judge that could not be calibrated."""
