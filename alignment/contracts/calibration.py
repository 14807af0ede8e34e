"""Value objects for a judge's calibration: its agreement with human labels. Torch-free, plain JSON."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from alignment.contracts.judges import Judge
from alignment.contracts.values import Record, Sha256, ValueObject


class Calibration(Record):
    """Agreement of a judge with held-out human labels. Human ties are skipped; a judge's tie counts as half right."""

    judge: str
    num_pairs: int
    """Comparisons with a majority label. Several people's labels of one comparison count as one."""
    num_human_ties: int
    accuracy: float
    accuracy_low: float
    """Lower Wilson bound at the evaluation's confidence. Pairs of one prompt are treated as dependent."""
    accuracy_high: float


TieRule = Literal["human_ties_left_out_judge_ties_half"]
"""Pairs that people labelled as ties are skipped; a judge's equal scores count as half right."""


class CalibrationSpec(ValueObject):
    """Judges to compare with the calibration split of a snapshot."""

    schema_version: int = 2
    judges: Annotated[tuple[Judge, ...], Field(min_length=1)]
    snapshot_digest: Sha256
    """content_digest of the snapshot."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of every interval."""
    tie_rule: TieRule = "human_ties_left_out_judge_ties_half"


class AgreementSlice(Record):
    """A judge's agreement on a subset of the pairs."""

    by: Literal["source", "generators"]
    """source: origin of the pairs; generators: the one or two models that generated the images (base family)."""
    name: str
    """For generators, both names, sorted, as `a | b`; `unknown` where a pair names none."""
    agreement: Calibration


class RaterReliability(Record):
    """Agreement between people. No judge can be required to exceed it by much."""

    num_shared_pairs: int
    """Comparisons (two images and a prompt) that at least two people labelled."""
    num_labels: int
    """Labels of these comparisons."""
    alpha: float | None
    """Krippendorff's alpha of nominal labels, with tie as a label: 1 is perfect, 0 is chance. None without
    shared pairs."""


class JudgeCalibration(ValueObject):
    """Measured agreement of one judge with human labels."""

    judge: Judge
    snapshot_digest: Sha256
    confidence: float
    tie_rule: TieRule
    overall: Calibration
    slices: tuple[AgreementSlice, ...]
    """Every source and every pair of generators, in descending order of the number of pairs."""
    margin_slope: float | None
    """Slope of a logistic fit of the human label on the judge's margin in standard deviations. A change between
    calibrations of one judge is drift. None where the fit does not exist."""
    newest_pair_at: AwareDatetime | None
    """Label time of the newest human pair; None where no pair has a date."""

    def expected_win_rate(self, human_win_rate: float) -> float:
        """Return the win rate that this judge reports at a human win rate of `human_win_rate`: the attenuation line."""
        return human_win_rate * self.overall.accuracy + (1 - human_win_rate) * (1 - self.overall.accuracy)


class CalibrationReport(ValueObject):
    """Result of a calibration. The folder holds calibration_scores.parquet and spec.json.

    calibration_scores.parquet has one row per (judge, pair): judge, pair_id, score_chosen, score_rejected, is_tie,
    source, generators, created_at, comparison, chosen_is_first, prompt_group. Everything here except the raters'
    agreement is computed from it.
    """

    uri: str
    spec: CalibrationSpec
    scores_digest: Sha256
    """sha256 of calibration_scores.parquet."""
    reliability: RaterReliability
    judges: tuple[JudgeCalibration, ...]
    problems: tuple[str, ...] = ()
    """One sentence per judge that could not be calibrated."""
