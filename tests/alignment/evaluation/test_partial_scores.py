"""Partial scores survive a killed evaluation and are reused only for the same scorers, images and prompts."""

from pathlib import Path

from alignment.evaluation.partial_scores import Piece, ScorePieces
from alignment.evaluation.scoring import ScoreRow

ROWS = [ScoreRow("m1", "j", 0, 7, 0.5), ScoreRow("m2", "j", 0, 7, float("nan"), shuffled=True)]
SCORERS = {"j": "a" * 64}


def test_a_piece_is_read_back_with_its_blank_images(tmp_path: Path) -> None:
    pieces = ScorePieces(tmp_path, SCORERS, ["m1", "m2"])
    assert pieces.read([0, 1]) is None
    pieces.write([0, 1], Piece(ROWS, ["m2/00000_7.png"]))
    found = ScorePieces(tmp_path, SCORERS, ["m2", "m1"]).read([0, 1])
    assert found is not None
    assert found.rows[0] == ROWS[0]
    assert found.rows[1].shuffled
    assert found.rows[1].score != found.rows[1].score
    assert found.blank == ["m2/00000_7.png"]


def test_other_scorers_images_or_prompts_are_scored_again(tmp_path: Path) -> None:
    ScorePieces(tmp_path, SCORERS, ["m1", "m2"]).write([0, 1], Piece(ROWS, []))
    assert ScorePieces(tmp_path, {"j": "b" * 64}, ["m1", "m2"]).read([0, 1]) is None
    assert ScorePieces(tmp_path, {"k": "a" * 64}, ["m1", "m2"]).read([0, 1]) is None
    assert ScorePieces(tmp_path, SCORERS, ["m1", "m3"]).read([0, 1]) is None
    assert ScorePieces(tmp_path, SCORERS, ["m1", "m2"]).read([0, 2]) is None
