"""The chat from its first line to its last, in a pseudo-terminal."""

import re
import shutil
from pathlib import Path

from tests.cli.chats import with_demo, with_script
from tests.cli.test_repl_commands import OPENING, OVERHEAD, counted

DOCS = Path(__file__).parents[2] / "docs"
ROUND = "round and round it goes, "
WORDS = " ".join(f"word{i}" for i in range(18))


def test_a_conversation_that_is_gone_on_with_later(tmp_path):
    """With the demo checkpoint: answers, numbers, and what a second run finds of the first."""
    shutil.copy(DOCS / "circles.png", tmp_path)
    question = (
        f"{'The old house by the river was sold in spring. ' * 24}The code word is bravokel. "
        "What is the code word?"
    )
    with with_demo(tmp_path, "--no-think", "-s", "Be brief.") as chat:
        start = chat.ready(again=True)
        assert start[0].startswith("qwen35 0.1.0 · demo bf16 · cpu · cpu kernels (")
        assert start[1].startswith("context 8,192 (bf16 KV 6.0 MiB) · thinking off · images on")
        assert len(start) == 3

        rows = chat.say("circles.png How many?")
        assert rows[:2] == [
            "image 1: circles.png 320×240 → 192×160 · 30 tokens",
            "Three.",
        ]
        first = counted(rows)[1]
        rows = chat.say(question)
        assert rows[-2] == "The code word is bravokel."
        cached, new = counted(rows)
        assert first <= cached < first + 10
        assert new > 100
        rows = chat.say("/regen")
        assert rows[0] == "The code word is bravokel."
        assert counted(rows)[1] <= 6
        chat.say("/undo")
        assert counted(chat.say("12 + 7"))[1] < 30
        chat.say("/undo")
        rows = chat.say(question)
        assert counted(rows) == (cached, new)  # whatever was said and taken back before
        context = int(re.search(r"([\d,]+) of 8,192", rows[-1])[1].replace(",", ""))
        assert chat.leave() == 0
        assert re.fullmatch(
            r"saved [\d,]+ tokens \([\d.]+ MiB\) · resume: qwen35 chat -c", chat.rows()[-1]
        )

    with with_demo(tmp_path, "--no-think", "-c") as chat:
        start = chat.ready(again=True)
        assert re.fullmatch(r"session \S+ · 2 turns · [\d,]+ tokens restored", start[-1])
        rows = chat.say("/regen")
        assert rows[0] == "The code word is bravokel."
        assert counted(rows)[1] <= 6
        rows = chat.say("What is 12 + 7?")
        cached, new = counted(rows)
        assert new < 30
        assert abs(cached - context) < 8
        assert chat.say("/system") == ["Be brief."]
        assert chat.leave() == 0


def test_a_prompt_is_sent_first(tmp_path):
    (tmp_path / "notes.txt").write_text("Some notes.\n")
    turns = [["Hm.", "</think>", "\n\nYes."], ["No."]]
    with with_script(tmp_path, turns, "Really?", "-f", "notes.txt", thinking=True) as chat:
        rows = chat.ready()
        assert rows[-3].startswith("thought 3 tokens, ")
        assert rows[-2] == "Yes."
        assert counted(rows)[1] > len("Really?" + "Some notes.")
        chat.say("/think off")
        assert chat.say("And now?")[0] == "No."
        assert chat.leave() == 0


def test_a_message_that_does_not_fit_is_refused_and_comes_back(tmp_path):
    with with_script(tmp_path, [[WORDS], ["Once more."]], "-n", ctx=256) as chat:
        rows = chat.say("w" * 300, then="www")
        over = OVERHEAD + 300
        assert rows[-2:] == [
            f"error: the prompt has {over} tokens, the context 256: {over - 256} too many, before "
            "any room to answer; nothing was cut",
            "hint: shorten it: at most 512 tokens fit",
        ]
        chat.clear()
        rows = chat.say("is there room left?" * 4)
        assert rows[-2:] == [
            "warning: the context is 84% full",
            "hint: /clear or /undo makes room, or --ctx 512 next time",
        ]
        rows = chat.say("and now one that is too long for the rest", then="and now")
        assert rows[0].startswith("error: the prompt has ")
        assert rows[1].startswith("hint: /undo or /clear makes room; ")
        chat.clear()
        assert chat.say("/undo")[-1] == "0 turns left"
        assert chat.say("short")[0] == "Once more."
        assert chat.leave() == 0


def test_thinking_is_closed_at_its_budget(tmp_path):
    thought = ["One. Two. Three. Four. Five. Six. Seven. Eight. Nine. Ten. Eleven. Twelve. "]
    turns = [[*thought, "x" * 400] for _ in range(3)]
    with with_script(tmp_path, turns, "-n", "--think-budget", "60", thinking=True) as chat:
        chat.say("/set max_tokens 20")
        rows = chat.say("one")
        assert re.match(r"thinking closed at its budget \(60\) · \d+ tokens, \d\.\d s", rows[0])
        assert rows[1].startswith("xxxx")
        assert "the answer was stopped at 20 tokens" in rows[2]
        chat.say("/think show")
        rows = chat.say("two")
        assert rows[0].startswith("One. Two.")
        assert "Considering the limited time by the user" in " ".join(rows)
        assert any(row.startswith("thinking closed at its budget (60) · ") for row in rows)
        chat.say("/think hide")
        rows = chat.say("three")
        assert rows[0].startswith("thinking closed at its budget (60) · ")
        assert rows[1].startswith("xxxx")


def test_a_budget_of_nothing_is_thinking_switched_off(tmp_path):
    turns = [["Yes."], ["Hm.", "</think>", "\n\nYes."]]
    with with_script(tmp_path, turns, "-n", "--think-budget", "0", thinking=True) as chat:
        assert " · thinking off · " in chat.ready(again=True)[1]
        assert chat.say("one")[0] == "Yes."
        assert chat.say("/think on")[0] == "error: the budget of the thinking is 0"
        assert chat.say("/think 4k") == ["thinking on, budget 4,096, shown: fold"]
        assert chat.say("two")[0].startswith("thought 3 tokens")


def test_what_goes_round_in_circles_is_ended(tmp_path):
    turns = [
        [ROUND * 12, "Then. ", ROUND * 12, "</think>"],
        ["It is so. " + "Again, and again. " * 9],
        ["It is so. " + "Again, and again. " * 9],
    ]
    with with_script(tmp_path, turns, "-n", thinking=True) as chat:
        chat.say("/set max_tokens 20")
        rows = chat.say("one")
        assert rows[0].startswith("thinking closed: it was repeating itself · ")
        assert any("was stopped at 20 tokens" in row for row in rows)

        chat.say("/think off")
        chat.say("/set max_tokens default")
        rows = chat.say("two")
        assert "warning: the answer was repeating itself and was stopped; one copy is kept" in rows
        assert rows[0].count("Again") < 5
        after = counted(rows)

        chat.say("/set loop_guard off")
        rows = chat.say("three")
        assert rows[0].count("Again") == 9
        assert not any(row.startswith("warning") for row in rows)
        kept = OVERHEAD - OPENING + len("two" + "It is so. Again, and again") + 2
        assert counted(rows) == (sum(after) - OVERHEAD - len("two") + kept, OVERHEAD + len("three"))
