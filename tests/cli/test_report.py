"""What is said of drafts."""

from qwen35cli.cli import report
from qwen35cli.engine.depth import Rounds


def counted(*outcomes):
    rounds = Rounds()
    for outcome in outcomes:
        rounds.record(*outcome)
    return rounds


def test_drafts_are_told_by_depth():
    rounds = counted((0, 0, 0, 1.0), (2, 2, 2, 1.5), (2, 1, 0, 1.7), (1, 1, 1, 1.2))
    assert report.drafts_line(rounds) == (
        "drafts: 1 round of 0, 1 round of 1 at 1.20 of a plain one, "
        "2 rounds of 2 at 1.60 of a plain one · accepted by depth 67% 100%"
    )
    assert report.drafts_line(counted((0, 0, 0, 1.0))) == "drafts: 1 round of 0"


def test_falling_back_is_when_most_rounds_were_plain():
    plain, drafted = (0, 0, 0, 1.0), (1, 1, 0, 1.5)
    assert not report._fell_back(counted(*[plain] * 4))  # just the beginning
    assert not report._fell_back(counted(*[plain] * 8, *[drafted] * 9))
    assert report._fell_back(counted(*[plain] * 8, *[drafted] * 3))
