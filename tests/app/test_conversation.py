"""Turns, what is counted, what is remembered."""

from dataclasses import replace

import pytest

from qwen35cli.app import budget
from qwen35cli.app.conversation import Conversation, Options
from qwen35cli.app.question import Question
from qwen35cli.app.turn import Thought
from qwen35cli.engine.runner import Prefill
from qwen35cli.engine.sampling import Sampling
from qwen35cli.errors import ContextFullError, UsageError
from qwen35cli.text.stream import Piece
from tests import fakes

OPTIONS = Options(sampling=Sampling(), max_tokens=1_000, loop_guard=False)


def talk(turns, *, thinking=False, system=None, ctx=4_096):
    """A conversation, and a function that takes the next turn and gives its events."""
    opened = fakes.fake_opened(ctx=ctx, thinking=thinking)
    loaded = fakes.fake_loaded(opened, turns)
    conversation = Conversation(opened, system=system, thinking=thinking)

    def ask(text, max_tokens=1_000, **more):
        options = replace(OPTIONS, max_tokens=max_tokens)
        return conversation.answer(loaded, Question.of(text), options, **more)

    def read():
        tokenizer = fakes.ByteTokenizer()
        return b"".join(map(tokenizer.token_bytes, loaded.runner.prompts[-1].ids)).decode()

    return conversation, ask, read


def test_events_come_in_order():
    conversation, ask, _ = talk([["ab", "</think>", "\n\nc"]], thinking=True)
    events = list(ask("q" * 100))
    assert [event.done for event in events if isinstance(event, Prefill)] == [64, 119, 121]
    texts = [(e.channel, e.text) for e in events if isinstance(e, Piece) and e.text]
    assert texts == [("reasoning", "a"), ("reasoning", "b"), ("answer", "c")]
    [thought] = [event for event in events if isinstance(event, Thought)]
    assert thought.tokens == 2
    result = conversation.result
    assert (result.reasoning_tokens, result.answer_tokens) == (2, 1)
    assert (result.reasoning, result.answer) == ("ab", "c")
    assert (result.finish_reason, result.closed_by) == ("stop", "model")


def test_the_next_turn_reads_the_answer_without_its_thinking():
    _, ask, read = talk([["hm", "</think>", "\n\nOne."], ["hm", "</think>", "Two."]], thinking=True)
    list(ask("first"))
    list(ask("second"))
    assert read() == (
        "<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\nOne.<|im_end|>\n"
        "<|im_start|>user\nsecond<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_clear_keeps_the_system_prompt():
    conversation, ask, read = talk([["One."], ["Two."]], system="Be brief.")
    list(ask("first"))
    conversation.clear()
    list(ask("second"))
    assert read().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nsecond")


def close_after(events, texts):
    """Take events until so many pieces of text came, then stop."""
    for event in events:
        if isinstance(event, Piece) and event.text:
            texts -= 1
            if not texts:
                break
    events.close()


def test_a_stopped_answer_is_kept_as_far_as_it_came():
    conversation, ask, read = talk([["abcdef"], ["Two."]])
    close_after(ask("first"), 3)
    assert (conversation.result.finish_reason, conversation.result.answer) == ("interrupted", "abc")
    list(ask("second"))
    assert "assistant\nabc<|im_end|>" in read()


def test_stopped_while_thinking_the_question_stays():
    conversation, ask, read = talk([["thought"], ["x", "</think>", "Two."]], thinking=True)
    close_after(ask("first"), 3)
    assert conversation.result.closed_by == "none"
    assert conversation.result.reasoning == "tho"
    list(ask("second"))
    assert "user\nfirst<|im_end|>\n<|im_start|>user\nsecond<|im_end|>" in read()


def test_stopped_while_the_prompt_is_read_nothing_is_remembered():
    conversation, ask, read = talk([["never"], ["Two."]])
    events = ask("q" * 200)
    next(events)
    events.close()
    assert conversation.result.finish_reason == "interrupted"
    assert conversation.result.first_token_s is None
    list(ask("second"))
    assert "qqq" not in read()


@pytest.mark.parametrize(
    ("turn", "thinking", "ctx", "finish", "closed_by"),
    [
        (["hi"], False, 4_096, "stop", "off"),
        (["x" * 2_000], False, 4_096, "length", "off"),
        (["x" * 99], False, 40, "context", "off"),
        (["x" * 99], True, 40, "context", "off"),
        (["x"], True, 4_096, "stop", "none"),
        (["x", "</think>", "x" * 2_000], True, 4_096, "length", "model"),
    ],
)
def test_every_ending_has_its_reason(turn, thinking, ctx, finish, closed_by):
    conversation, ask, _ = talk([turn], thinking=thinking, ctx=ctx)
    list(ask("q"))
    result = conversation.result
    assert (result.finish_reason, result.closed_by) == (finish, closed_by)
    assert result.answer_tokens <= 1_000
    if finish == "context":
        assert result.context_tokens == ctx


def test_an_unfinished_character_at_the_end_is_shown_as_one_mark():
    conversation, ask, _ = talk([["a", "\udcf0\udc9f"]])
    list(ask("q"))
    assert conversation.result.answer == "a\ufffd"


def stopped_thinking(*more):
    """A conversation whose only answer was stopped in its thinking, and its loaded model."""
    opened = fakes.fake_opened(thinking=True)
    loaded = fakes.fake_loaded(opened, [["hm", " hm"], more])
    conversation = Conversation(opened, system=None, thinking=True)
    events = conversation.answer(loaded, Question.of("2 + 2?"), OPTIONS)
    for event in events:
        if isinstance(event, Piece) and event.text:
            break
    events.close()
    assert conversation.last().closed_by == "none"
    return conversation, loaded


def test_without_a_budget_thinking_that_is_gone_on_with_ends_at_once():
    conversation, loaded = stopped_thinking("x" * 500)
    list(conversation.go_on(loaded, replace(OPTIONS, think_budget=0, max_tokens=4)))
    turn = conversation.last()
    assert turn.closed_by == "budget"
    assert len(turn.reasoning) < 300  # up to a border, and the sentence that closes it


def test_an_answer_that_is_written_behind_thinking_that_was_cut_is_an_answer():
    conversation, loaded = stopped_thinking("four.")
    list(conversation.go_on_from(loaded, "It is ", OPTIONS))
    turn = conversation.last()
    assert turn.answer == "It is four."
    assert turn.reasoning == "h"


@pytest.mark.parametrize("tokens", ["known", "spelled"])
def test_thinking_in_which_the_model_ended_goes_on_to_an_answer(tokens):
    opened = fakes.fake_opened(thinking=True)
    loaded = fakes.fake_loaded(opened, [["hm"], ["four."]])
    conversation = Conversation(opened, system=None, thinking=True)
    list(conversation.answer(loaded, Question.of("2 + 2?"), OPTIONS))
    turn = conversation.last()
    assert (turn.finish, turn.closed_by, turn.answer) == ("stop", "none", "")
    if tokens == "spelled":  # as after a restart
        turn.tokens = []
    list(conversation.go_on(loaded, OPTIONS))
    turn = conversation.last()
    assert (turn.finish, turn.answer) == ("stop", "four.")
    assert turn.reasoning == "hm" + budget.PHRASE.rstrip()
    assert conversation.result.new_tokens == len(budget.closing(opened.tokenizer))
    with pytest.raises(UsageError, match="complete"):
        list(conversation.go_on(loaded, OPTIONS))


def test_that_there_is_no_room_to_think_is_said_of_a_turn_once():
    opened = fakes.fake_opened(thinking=True)
    loaded = fakes.fake_loaded(opened, [["ab"], ["cd"]])
    conversation, question = Conversation(opened, system=None, thinking=True), Question.of("q")
    left = opened.ctx - len(conversation.prompt(question, thinking=False).ids)
    options = replace(OPTIONS, answer_reserve=left, max_tokens=1)
    list(conversation.answer(loaded, question, options))
    assert conversation.last().no_room
    list(conversation.go_on(loaded, options))
    assert not conversation.last().no_room


def test_the_old_turn_stays_until_the_answer_in_its_place_begins():
    conversation, ask, _ = talk([["One."], ["Two."]], ctx=64)
    list(ask("first"))
    (old,) = conversation.turns
    with pytest.raises(ContextFullError):
        list(ask("q" * 100, instead=True))
    assert conversation.turns == [old]
    list(ask("second", instead=True))
    (new,) = conversation.turns
    assert (new.question.text, new.answer) == ("second", "Two.")
