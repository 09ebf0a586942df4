"""The benchmark of turn memory, on the demo: it runs, and its figures are what they are called."""

import json
import sys

from benchmarks import turns


def test_turns_of_the_demo(tmp_path, monkeypatch, capsys):
    out = tmp_path / "turns.json"
    given = ["turns", "demo", "--tokens", "300", "--runs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    turns.main()
    result = json.loads(out.read_text())
    assert result == json.loads(capsys.readouterr().out)
    figures = result["figures"]
    assert 0 < figures["again_new"] < figures["new"] < figures["tokens"] < figures["restored"]
    assert figures["saved_bytes"] > figures["state_bytes"] > 0
