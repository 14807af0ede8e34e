"""Finished scores survive a killed evaluation, and only fitting ones are used again."""

from pathlib import Path

from alignment.evaluation.score_pieces import ScorePieces
from alignment.evaluation.scoring import ScoreRow

ROWS = [ScoreRow("m1", "j", 0, 7, 0.5), ScoreRow("m2", "j", 0, 7, float("nan"))]


def test_what_was_written_is_read_by_the_same_rank_and_scorer(tmp_path: Path) -> None:
    pieces = ScorePieces(tmp_path, 0, 2)
    assert pieces.read("a" * 64, ["m1", "m2"], 2) is None
    pieces.write("a" * 64, ROWS)
    found = ScorePieces(tmp_path, 0, 2).read("a" * 64, ["m1", "m2"], 2)
    assert found is not None
    assert found[0] == ROWS[0]
    assert found[1].score != found[1].score
    assert pieces.read("b" * 64, ["m1", "m2"], 2) is None
    assert ScorePieces(tmp_path, 1, 2).read("a" * 64, ["m1", "m2"], 2) is None


def test_other_images_are_scored_again(tmp_path: Path) -> None:
    pieces = ScorePieces(tmp_path, 0, 1)
    pieces.write("a" * 64, ROWS)
    assert pieces.read("a" * 64, ["m1", "m3"], 2) is None
    assert pieces.read("a" * 64, ["m1", "m2"], 3) is None
    pieces.write("c" * 64, [])
    assert pieces.read("c" * 64, ["m1"], 0) == []
