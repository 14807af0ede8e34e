"""Verdicts on tables of users' picks, and errors about them."""

from pathlib import Path

import pytest

from pipelines.monitor.canary import judge_picks


def table(path: Path, lines: list[str], header: str = "pick") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_clear_preference_is_decided_and_stays_decided(tmp_path: Path) -> None:
    picks = ["challenger", "challenger", "champion", "challenger"] * 40
    early = judge_picks(table(tmp_path / "a.csv", picks))
    assert (early.verdict, early.num_counted, early.win_rate) == ("challenger", 160, 0.75)
    assert early.win_rate_low > 0.5
    assert early.decided_after is not None
    assert early.decided_after < 160
    mirrored = [{"challenger": "champion", "champion": "challenger"}[pick] for pick in picks]
    assert judge_picks(table(tmp_path / "b.csv", mirrored)).verdict == "champion"
    stricter = judge_picks(tmp_path / "a.csv", required=0.7)
    assert stricter.verdict == "undecided", "three of four do not show more than 70 % after 160"


def test_ties_are_not_counted_and_are_reported(tmp_path: Path) -> None:
    verdict = judge_picks(table(tmp_path / "a.csv", ["challenger", "tie", "champion", "tie"]))
    assert (verdict.verdict, verdict.num_ties, verdict.num_counted, verdict.win_rate) == ("undecided", 2, 2, 0.5)
    assert "2 ties are not counted" in verdict.explanation


def test_many_picks_of_one_user_do_not_decide(tmp_path: Path) -> None:
    lines = ["challenger,zoe"] * 300 + ["champion,ben"]
    verdict = judge_picks(table(tmp_path / "a.csv", lines, "pick,user"))
    assert (verdict.verdict, verdict.num_counted, verdict.num_over_limit) == ("undecided", 2, 299)
    assert verdict.num_users == 2
    several = judge_picks(tmp_path / "a.csv", picks_per_user=3)
    assert several.num_counted == 4


def test_a_tie_does_not_use_up_a_users_pick(tmp_path: Path) -> None:
    verdict = judge_picks(table(tmp_path / "a.csv", ["tie,zoe", "champion,zoe"], "pick,user"))
    assert (verdict.num_counted, verdict.num_over_limit) == (1, 0)


def test_rows_are_sorted_by_time(tmp_path: Path) -> None:
    lines = ["champion,zoe,2026-11-02T10:00:00+00:00", "challenger,zoe,2026-11-02T10:30:00+01:00"]
    verdict = judge_picks(table(tmp_path / "a.csv", lines, "pick,user,time"))
    assert verdict.win_rate == 1.0, "half past ten in Paris is before ten in London"


def test_picks_that_change_during_the_canary_have_no_verdict(tmp_path: Path) -> None:
    verdict = judge_picks(table(tmp_path / "a.csv", ["challenger"] * 200 + ["champion"] * 400))
    assert (verdict.verdict, verdict.decided_after) == ("drift", None)
    assert "start a new table" in verdict.explanation


def test_a_challenger_that_wins_by_less_than_required_is_insufficient(tmp_path: Path) -> None:
    picks = ["challenger"] * 3 + ["champion"] * 2
    verdict = judge_picks(table(tmp_path / "a.csv", picks * 400), required=0.7)
    assert verdict.win_rate_low > 0.5
    assert verdict.verdict == "insufficient"
    assert "fewer than the required 0.7" in verdict.explanation


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("vote", "challenger", "has no `pick`"),
        ("pick", "Challenger", "not one of challenger, champion, tie in lines 2"),
        ("pick,user", "champion,", "`user` is empty in lines 2"),
        ("pick,time", "champion,2026-11-02", "with a time zone in lines 2"),
        ("pick", "tie", "no pick of challenger or champion"),
    ],
)
def test_faults_are_named(tmp_path: Path, header: str, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_picks(table(tmp_path / "a.csv", [line], header))


def test_limits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        judge_picks(table(tmp_path / "a.csv", ["champion"]), required=1.0)
    with pytest.raises(ValueError, match="cannot be read"):
        judge_picks(tmp_path / "none.csv")
