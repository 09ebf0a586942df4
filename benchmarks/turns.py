"""What turn memory is worth: `python -m benchmarks.turns CHECKPOINT`.

    --tokens 4000   of the text that the conversation is about
    --runs 5        turns of each kind; medians are shown
    --out FILE      keep the result

One conversation: a long text with a question, then short questions. Measured are the first token of
the first turn, which reads everything, of next turns, of answering again, of a turn in the place of
one that was taken back; taking a state and returning to it; saving the session, and in a second
model what comes back from it: how long that takes, and the first token of the next turn.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from qwen35cli.app import load as loading
from qwen35cli.app.conversation import Conversation, Options
from qwen35cli.app.doctor.machine import cpu_name
from qwen35cli.app.load import Loaded, LoadOptions
from qwen35cli.app.question import Question
from qwen35cli.app.states import States
from qwen35cli.engine.sampling import Sampling

OPTIONS = Options(sampling=Sampling(temperature=0), max_tokens=16, loop_guard=False)
ASKED = "What does the text say about the weather, and where in it does it say so?"
WORDS = "The wind came from the west that day and nobody on the pier had thought of rain. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--tokens", type=int, default=4_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = LoadOptions(
        model=given.checkpoint, device=given.device, ctx=2 * given.tokens + 4_096, mtp="off"
    )
    loaded = loading.load(loading.open_model(options))
    talk = Conversation(loaded.opened, system=None, thinking=False)
    tokens = len(loaded.opened.tokenizer.encode(WORDS))
    text = WORDS * (given.tokens // tokens) + "\n\n"

    figures: dict[str, float] = {}
    figures["cold_s"], figures["tokens"] = turn(talk, loaded, Question((text, ASKED)))
    figures["settle_s"] = settle(talk, loaded)
    warm = [next_turn(talk, loaded) for _ in range(given.runs)]
    figures["warm_s"], figures["new"] = median(warm)
    again = [drive(talk, talk.regenerate(loaded, OPTIONS)) for _ in range(given.runs)]
    figures["again_s"], figures["again_new"] = median(again)
    instead = []
    for number in range(given.runs):
        settle(talk, loaded)
        talk.undo()
        instead.append(turn(talk, loaded, Question.of(f"No. {number}: {ASKED}")))
    figures["instead_s"], figures["instead_new"] = median(instead)
    figures |= states_of(loaded)
    settle(talk, loaded)

    with tempfile.TemporaryDirectory() as folder:
        states = States(Path(folder), loaded.opened)
        start = time.perf_counter()
        _, figures["saved_bytes"] = states.save(loaded.memory, "session")
        figures["save_s"] = time.perf_counter() - start
        del loaded
        fresh = loading.load(loading.open_model(options))
        saved = States(Path(folder), fresh.opened)
        back = Conversation(fresh.opened, system=None, thinking=False)
        restored, returned = [], []
        for _ in range(given.runs):
            fresh.memory.forget()
            back.turns = [replace(each) for each in talk.turns]
            start = time.perf_counter()
            figures["restored"] = saved.load_session("session", fresh)
            restored.append(time.perf_counter() - start)
            returned.append(next_turn(back, fresh))
        figures["restore_s"] = statistics.median(restored)
        figures["restore_first_s"] = restored[0]
        figures["back_s"], figures["back_new"] = median(returned)
        figures["back_first_s"] = returned[0][0]
    more = [next_turn(back, fresh) for _ in range(given.runs)]
    figures["later_s"], _ = median(more)

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "cpu": cpu_name(),
        "commit": commit,
        "command": f"python -m benchmarks.turns INT4 --tokens {given.tokens}",
        "runs": given.runs,
        "figures": {name: round(value, 4) for name, value in figures.items()},
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


def drive(talk: Conversation, events) -> tuple[float, int]:
    """Seconds to the first token of an answer, and the tokens that were read for it."""
    for _ in events:
        pass
    assert talk.result is not None and talk.result.first_token_s is not None
    talk.turns[-1].finish = "stop"  # of random weights only the limit ends it
    return talk.result.first_token_s, talk.result.new_tokens


def turn(talk: Conversation, loaded: Loaded, question: Question) -> tuple[float, int]:
    return drive(talk, talk.answer(loaded, question, OPTIONS))


def next_turn(talk: Conversation, loaded: Loaded) -> tuple[float, int]:
    settle(talk, loaded)
    return turn(talk, loaded, Question.of(ASKED))


def settle(talk: Conversation, loaded: Loaded) -> float:
    start = time.perf_counter()
    for _ in talk.settle(loaded):
        pass
    return time.perf_counter() - start


def states_of(loaded: Loaded) -> dict[str, float]:
    """Seconds to take a state and to return to it, and its bytes."""
    taken, back = [], []
    for _ in range(7):
        start = time.perf_counter()
        state = loaded.runner.snapshot()
        taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        loaded.runner.restore(state)
        back.append(time.perf_counter() - start)
    return {
        "snapshot_s": statistics.median(taken),
        "return_s": statistics.median(back),
        "state_bytes": state.nbytes,
    }


def median(turns: list[tuple[float, int]]) -> tuple[float, int]:
    return statistics.median(seconds for seconds, _ in turns), turns[-1][1]


if __name__ == "__main__":
    main()
