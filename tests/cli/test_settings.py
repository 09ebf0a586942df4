"""What the environment decides."""

import pytest

from qwen35cli.cli import settings


@pytest.mark.parametrize(
    ("choice", "variables", "is_terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour(monkeypatch, choice, variables, is_terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings.wants_color(choice, is_terminal=is_terminal) is expected


def test_what_the_program_sets_itself_is_no_variable_of_the_user(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # which puts back what the call below sets
        monkeypatch.delenv(name)
    settings.wait_briefly()
    assert "GOMP_SPINCOUNT" not in settings.environment()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert settings.environment()["GOMP_SPINCOUNT"] == "7"
