import importlib.resources
import itertools
from functools import cache
from pathlib import Path

import pytest

from qwen35cli.app.budget import (
    BUDGET,
    OPENING,
    PHRASE,
    RESERVE,
    Room,
    TextBreaks,
    closing,
    opening,
    room,
    thinking_guard,
)
from qwen35cli.app.load import Loaded, LoadOptions, load, open_model
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.errors import ContextFullError
from qwen35cli.text.template import Message, Text, render
from qwen35cli.text.tokenizer import Tokenizer
from tests.fakes import ByteTokenizer

DEMO = Path(str(importlib.resources.files("qwen35cli"))) / "demo"
BYTES = ByteTokenizer()


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO)


@cache
def demo() -> Loaded:
    return load(open_model(LoadOptions(model="demo", device="cpu", ctx=512)))


def text(tokens):
    return b"".join(tokenizer().token_bytes(token) for token in tokens).decode()


def answer(question, shared=None, loops=False):
    """The thinking and the answer of the demo model, and the guard."""
    special, stop = tokenizer().special, tokenizer().stop_ids
    prompt = Prompt(tuple(render([Message("user", (Text(question),))], tokenizer(), thinking=True)))
    demo().runner.reset()
    sampler = Sampler(Sampling(temperature=0), tokenizer().vocab_size)
    guard = thinking_guard(tokenizer(), shared or Room(10_000, 64, 0), loops=loops)
    options = {"stop": stop, "max_tokens": 300, "steering": guard}
    events = generate(demo().runner, prompt, sampler, **options)
    tokens = [event.token for event in events if isinstance(event, Step)]
    at = tokens.index(special.end_think)
    assert tokens[-1] in stop
    return text(tokens[:at]), text(tokens[at + 1 : -1]), guard


def test_the_closing_says_what_it_is_to_say():
    ids, special = closing(tokenizer()), tokenizer().special
    assert text(ids) == f"{PHRASE}</think>{OPENING}"
    assert ids.count(special.end_think) == 1
    assert text(opening(tokenizer())) == "\n\n"


QUESTIONS = ["What is 7 + 5?", "Count from 3 to 9.", "What is the capital of France?"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_budget_cuts_a_word_and_an_answer_always_follows(question):
    free, _, guard = answer(question)
    assert guard.closed_by == "model"
    closed_by = set()
    for budget, patience in itertools.product(range(1, 40, 3), (1, 64)):
        thought, said, guard = answer(question, Room(budget, patience, 0))
        closed_by.add(guard.closed_by)
        assert "think>" not in thought + said
        assert said.startswith(OPENING) and said.strip()
        if guard.closed_by == "model":
            assert thought == free
            continue
        assert thought.endswith(PHRASE)
        kept = thought.removesuffix(PHRASE)
        assert free.startswith(kept)
        if patience == 64:
            assert not (kept[-1:].isalnum() and free[len(kept)].isalnum())
    assert "budget" in closed_by


BREAKS = [  # before, behind, a sentence ends there, a word does
    (b".", b" Then", True, True),
    (b'."', b" Then", True, True),
    (b".", b'"', False, False),
    (b"3", b".", False, False),
    (b".", b"14", False, False),
    (b" cat", b"s", False, False),
    (b" cat", b" sat", False, True),
    (b" cat", b"\n", True, True),
    (b":\n", b"def", True, True),
    (b"\n  ", b"x", True, True),
    (b" ", b"x", False, True),
    ("。".encode(), "然".encode(), True, True),
    ("，".encode(), "然".encode(), False, True),
    ("猫".encode(), "狗".encode(), False, False),
    (b"\xe7\x8c", b"\xab", False, False),
    (b"caf", "é".encode(), False, False),
]


class Spelled:
    """Tokens that are bytes themselves."""

    def token_bytes(self, token):
        return token

    def is_added(self, token):
        return token == b"<tool_call>"


@pytest.mark.parametrize(("before", "behind", "sentence", "word"), BREAKS)
def test_where_text_may_be_broken_off(before, behind, sentence, word):
    breaks = TextBreaks(Spelled())
    assert breaks.sentence(before, behind) == sentence
    assert breaks.word(before, behind) == word


def test_a_control_token_breaks_a_word_and_its_spelling_as_bytes_does_not():
    breaks = TextBreaks(Spelled())
    assert breaks.word(b"cat", b"<tool_call>")
    assert not breaks.sentence(b"cat", b"<tool_call>")
    assert not breaks.word(b"cat", b"<")
    assert closing(BYTES).count(BYTES.special.end_think) == 1


def shared(prompt, ctx, budget=BUDGET, reserve=None, largest=100_000):
    return room(prompt, ctx, budget=budget, reserve=reserve, closing_tokens=40, largest_ctx=largest)


def test_in_a_large_context_nothing_shrinks():
    assert shared(1_000, 32_768) == Room(BUDGET, 64, RESERVE)


@pytest.mark.parametrize("ctx", range(1_000, 9_000, 77))
@pytest.mark.parametrize("reserve", [None, 0, 500])
def test_prompt_thinking_closing_and_reserve_always_fit(ctx, reserve):
    for budget in (None, 1, 500, BUDGET):
        given = shared(400, ctx, budget, reserve)
        longest = given.budget + 2 * given.patience + 40
        assert 400 + given.reserve + longest <= ctx or given.budget == 0
        assert given.reserve == (reserve if reserve is not None else min(RESERVE, (ctx - 400) // 4))
        if budget is not None:
            assert given.budget <= budget
            if given.budget < budget:  # it shrinks by no more than it has to
                assert longest + given.reserve + 400 == ctx or given.budget == 0
        else:
            assert longest + given.reserve + 400 == ctx


def test_small_contexts_keep_a_quarter_of_what_is_left():
    given = shared(60, 512)
    assert given.reserve == 113
    assert given.budget > 200
    assert shared(512, 512) == Room(0, 0, 0)
    assert shared(60, 512, budget=0).budget == 0


def test_a_reserve_that_was_asked_for_is_kept_or_refused():
    assert shared(400, 1_400, reserve=1_000) == Room(0, 0, 1_000)
    with pytest.raises(ContextFullError) as error:
        shared(401, 1_400, reserve=1_000)
    assert error.value.message == (
        "the prompt has 401 tokens, the context 1,400: that leaves 999, fewer than the 1,000 kept "
        "for the answer; nothing was cut"
    )
    assert error.value.hint == "--ctx 1401 fits"
    with pytest.raises(ContextFullError) as error:
        shared(401, 1_400, reserve=1_000, largest=1_400)
    assert error.value.hint == "--answer-reserve 999: 1,400 is the most"
