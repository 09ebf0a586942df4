"""Turns with the demo: what is read, and that it gives what reading everything anew gives."""

import random

import pytest
import torch
from PIL import Image

from qwen35cli.app import load as loading
from qwen35cli.app.conversation import Conversation, Options
from qwen35cli.app.load import KV_DTYPES, LoadOptions
from qwen35cli.app.question import Picture, Question
from qwen35cli.engine.memory import Memory
from qwen35cli.engine.runner import Prefill, Runner
from qwen35cli.engine.sampling import Sampling
from qwen35cli.errors import ContextFullError, UsageError
from qwen35cli.images.preprocess import preprocess
from qwen35cli.text.stream import Piece

OPTIONS = Options(sampling=Sampling(seed=3), max_tokens=120)


@pytest.fixture(scope="module", params=["bf16", "int8"])
def loaded(request):
    options = LoadOptions(model="demo", ctx=2_048, kv_dtype=request.param, mtp="auto")
    return loading.load(loading.open_model(options))


@pytest.fixture
def talk(loaded):
    loaded.memory.forget()
    return Conversation(loaded.opened, system="Be brief.", thinking=True)


def question(*parts):
    return Question(parts)


def picture(loaded, color):
    data = Image.new("RGB", (96, 64), color)
    return Picture(
        f"{color}.png", data.size, None, preprocess(data, loaded.opened.image_limits), b""
    )


def ask(talk, loaded, *parts, stop_after=None, **more):
    """Take a turn; the tokens that were read for it."""
    return drive(talk.answer(loaded, Question(parts), OPTIONS, **more), talk, stop_after)


def drive(events, talk, stop_after=None):
    texts = 0
    for event in events:
        texts += isinstance(event, Piece) and bool(event.text)
        if texts == stop_after:
            break
    events.close()
    return talk.result.new_tokens


def settle(talk, loaded):
    for _ in talk.settle(loaded):
        pass


def own_tokens(talk, *parts):
    """Tokens of a message and of the beginning of its answer."""
    _, view = talk._asking(talk.turns, Question(parts), talk.thinking)
    return len(view.ids) - view.messages[-1]


def reading_anew(loaded, prompt):
    fresh = Runner(
        loaded.runner.model,
        capacity=loaded.opened.ctx,
        kv_dtype=KV_DTYPES[loaded.opened.kv_dtype],
        chunk=loaded.runner.chunk,
        draft_head=loading.draft_head(loaded.runner.model, loaded.opened.tokenizer),
    )
    *_, last = Memory(fresh).prefill(prompt)
    return last.logits


def check(talk, loaded):
    """The state stands where reading the conversation anew would put it."""
    prompt = talk.prompt(question("And now?"))
    *_, last = loaded.memory.prefill(prompt)
    assert torch.equal(last.logits, reading_anew(loaded, prompt))


@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "at-once"])
def test_the_next_turn_reads_its_own_tokens_alone(talk, loaded, thinking):
    talk.thinking = thinking
    assert ask(talk, loaded, "What is 3 + 4?") > 0
    for text in ("And 5 + 6?", "What can you do?", "Hello"):
        settle(talk, loaded)
        own = own_tokens(talk, text)
        assert ask(talk, loaded, text) == own
        assert talk.result.read_again is None
    settle(talk, loaded)
    check(talk, loaded)


def test_without_settling_the_last_answer_is_read_too(talk, loaded):
    ask(talk, loaded, "What is 3 + 4?")
    view = talk._history(talk.turns)
    answer = view.messages[-1] - view.messages[-2]
    own = own_tokens(talk, "And 5 + 6?")
    # The beginning of the assistant's turn stood before the thinking already.
    header = 1 + len(loaded.opened.tokenizer.encode("assistant\n"))
    assert ask(talk, loaded, "And 5 + 6?") == own + answer - header


def test_regenerate_and_switching_the_mode_read_the_opening_alone(talk, loaded):
    ask(talk, loaded, "What is 3 + 4?")
    settle(talk, loaded)
    assert drive(talk.regenerate(loaded, OPTIONS), talk) == 2  # <think> and a new line
    talk.thinking = False
    assert drive(talk.regenerate(loaded, OPTIONS), talk) == 4
    assert len(talk.turns) == 1
    settle(talk, loaded)
    check(talk, loaded)


def test_taking_back_and_editing_any_turn_reads_the_message_alone(talk, loaded):
    for text in ("What is 1 + 1?", "What is 2 + 2?", "What is 3 + 3?", "Hello"):
        ask(talk, loaded, text)
        settle(talk, loaded)
    assert [turn.question.text for turn in talk.undo(3)] == [
        "What is 2 + 2?",
        "What is 3 + 3?",
        "Hello",
    ]
    own = own_tokens(talk, "What is 7 + 7?")
    assert ask(talk, loaded, "What is 7 + 7?") == own
    settle(talk, loaded)
    check(talk, loaded)
    talk.clear()
    own = own_tokens(talk, "Hello")
    with pytest.raises(UsageError, match="no turn"):
        talk.undo()
    view = talk._asking([], question("Hello"), True)[1]
    assert ask(talk, loaded, "Hello") == len(view.ids) - view.system


@pytest.mark.parametrize("stop_after", [1, 4, 9, 20])
@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "at-once"])
def test_a_cut_answer_goes_on_as_if_it_had_not_been_cut(talk, loaded, thinking, stop_after):
    talk.thinking = thinking
    whole = Conversation(loaded.opened, system="Be brief.", thinking=thinking)
    ask(whole, loaded, "What can you do?")
    loaded.memory.forget()
    ask(talk, loaded, "What can you do?", stop_after=stop_after)
    assert talk.turns[-1].finish == "interrupted"
    settle(talk, loaded)  # which must do nothing
    assert drive(talk.go_on(loaded, OPTIONS), talk) == 1
    assert talk.turns[-1].answer == whole.turns[-1].answer
    assert talk.turns[-1].reasoning == whole.turns[-1].reasoning
    assert talk.turns[-1].tokens == whole.turns[-1].tokens
    with pytest.raises(UsageError, match="complete"):
        drive(talk.go_on(loaded, OPTIONS), talk)


@pytest.mark.parametrize("thinking", [False, True], ids=["at-once", "thinking"])
def test_the_mark_of_a_picture_in_a_cut_answer_is_text_when_it_goes_on(talk, loaded, thinking):
    talk.thinking = thinking
    ask(talk, loaded, picture(loaded, "red"), "What is in it?", stop_after=3)
    cut = talk.last()
    cut.tokens.append(loaded.opened.tokenizer.special.image_pad)  # as if the model had said it
    said = cut.reasoning if thinking else cut.answer
    drive(talk.go_on(loaded, OPTIONS), talk)
    assert (talk.last().reasoning if thinking else talk.last().answer).startswith(said)
    settle(talk, loaded)
    check(talk, loaded)


def test_where_no_answer_came_another_one_reads_the_opening_alone(talk, loaded):
    ask(talk, loaded, "What is 3 + 4?", stop_after=2)
    talk.turns[-1].finish = "stop"  # as where the model ends in its thinking
    settle(talk, loaded)
    assert drive(talk.regenerate(loaded, OPTIONS), talk) == 2


def test_an_edited_answer_is_gone_on_with(talk, loaded):
    talk.thinking = False
    ask(talk, loaded, "What can you do?")
    drive(talk.go_on_from(loaded, "I can answer questions", OPTIONS), talk)
    assert talk.turns[-1].answer.startswith("I can answer questions")
    assert len(talk.turns[-1].answer) > len("I can answer questions")
    settle(talk, loaded)
    check(talk, loaded)


def test_another_system_prompt_reads_all_again_and_says_why(talk, loaded):
    for _ in range(3):
        ask(talk, loaded, "What can you do in all of these many words that are to be read?")
        settle(talk, loaded)
    talk.replace_system("Answer like a pirate.")
    prompt = talk.prompt(question("Hello"))
    assert ask(talk, loaded, "Hello") == len(prompt.ids)
    assert talk.result.read_again == "system prompt changed"


def test_dropped_states_are_given_as_the_reason(talk, loaded):
    cap, loaded.memory.cap_bytes = loaded.memory.cap_bytes, 1
    try:
        for number in range(6):
            ask(talk, loaded, f"What is {number} + 4? " + "Say it in words. " * 20)
            settle(talk, loaded)
        talk.undo(3)
        ask(talk, loaded, "Hello")
        assert "older states were dropped" in (talk.result.read_again or "")
    finally:
        loaded.memory.cap_bytes = cap


def test_thinking_that_is_kept_stays_in_the_context(talk, loaded):
    talk.keep_thinking = True
    ask(talk, loaded, "What is 3 + 4?")
    settle(talk, loaded)
    reasoning = loaded.opened.tokenizer.encode(talk.turns[-1].reasoning)
    ids = list(talk.prompt(question("And 5 + 6?")).ids)
    assert any(ids[i : i + len(reasoning)] == reasoning for i in range(len(ids)))
    own = own_tokens(talk, "And 5 + 6?")
    assert ask(talk, loaded, "And 5 + 6?") == own
    settle(talk, loaded)
    assert torch.isfinite(list(loaded.memory.prefill(talk.prompt(question("?"))))[-1].logits).all()


def test_a_mode_for_one_question_is_that_of_its_other_answers(talk, loaded):
    ask(talk, loaded, "What is 3 + 4?", thinking=False)
    assert not talk.mode_again()
    drive(talk.regenerate(loaded, OPTIONS), talk)
    assert talk.turns[-1].closed_by == "off"
    ask(talk, loaded, "What is 5 + 4?")
    assert talk.turns[-1].closed_by != "off"
    talk.thinking = False
    assert not talk.mode_again()


def test_a_full_context_is_refused_and_nothing_is_lost(talk, loaded):
    ask(talk, loaded, "What is 3 + 4?")
    settle(talk, loaded)
    with pytest.raises(ContextFullError, match="nothing was cut"):
        ask(talk, loaded, "word " * 3_000)
    assert len(talk.turns) == 1
    own = own_tokens(talk, "Hello")
    assert ask(talk, loaded, "Hello") == own


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_actions_equals_reading_anew(talk, loaded, seed):
    choice = random.Random(seed)
    colors = ["red", "blue", "green"]
    for number in range(14):
        action = choice.choice(
            ["ask", "ask", "stop", "stop early", "again", "undo", "edit", "picture", "on", "mode"]
        )
        text = choice.choice(["What is {} + 4?", "Hello {}", "Name it {}.", "What can you do? {}"])
        text = text.format(number)
        if action in ("again", "undo", "edit", "on") and not talk.turns:
            action = "ask"
        if action == "stop":
            ask(talk, loaded, text, stop_after=choice.randint(1, 12))
        elif action == "stop early":
            events = talk.answer(loaded, Question.of(text * 60), OPTIONS)
            for event in events:
                if isinstance(event, Prefill):
                    break
            events.close()
        elif action == "again":
            drive(talk.regenerate(loaded, OPTIONS), talk, choice.choice([None, 3]))
        elif action == "undo":
            talk.undo(choice.randint(1, len(talk.turns)))
        elif action == "edit":
            talk.undo()
            ask(talk, loaded, text)
        elif action == "picture":
            ask(talk, loaded, picture(loaded, choice.choice(colors)), text)
        elif action == "on" and talk.turns[-1].finish != "stop":
            drive(talk.go_on(loaded, OPTIONS), talk)
        elif action == "mode":
            talk.thinking = not talk.thinking
        else:
            ask(talk, loaded, text)
        if choice.random() < 0.7:
            settle(talk, loaded)
        if number % 3 == 0:
            check(talk, loaded)
    check(talk, loaded)


def test_memory_is_flat_over_many_turns(talk, loaded):
    cap, loaded.memory.cap_bytes = loaded.memory.cap_bytes, 10 * 80_000
    try:
        talk.thinking = False
        sizes = []
        for number in range(30):
            ask(talk, loaded, f"What is {number} + 4?")
            settle(talk, loaded)
            sizes.append(loaded.memory.nbytes)
            if len(talk.prompt(question("?")).ids) > 1_700:
                talk.clear()
        assert max(sizes[10:]) <= loaded.memory.cap_bytes
    finally:
        loaded.memory.cap_bytes = cap
