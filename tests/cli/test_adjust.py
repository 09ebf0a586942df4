import pytest

from qwen35cli.cli.adjust import KEYS, Adjustable, completions
from qwen35cli.cli.config import SAMPLING
from qwen35cli.cli.options import (
    Flags,
    InputFlags,
    ModelFlags,
    OutputFlags,
    SamplingFlags,
    SessionFlags,
    ThinkingFlags,
)
from qwen35cli.errors import UsageError


def adjustable(*, sampling=None, thinking=None):
    return Adjustable(
        Flags(
            input=InputFlags(),
            model=ModelFlags(),
            session=SessionFlags(),
            sampling=SamplingFlags(**(sampling or {})),
            thinking=ThinkingFlags(**(thinking or {})),
            output=OutputFlags(),
        )
    )


def shown(adjust, key, *, thinking=False):
    (line,) = adjust.lines(key, thinking=thinking)
    return line.split()[1]


def test_what_is_not_set_follows_the_preset_and_the_mode():
    adjust = adjustable()
    assert [shown(adjust, "temp", thinking=mode) for mode in (True, False)] == ["1", "0.7"]
    adjust.set("preset", "coding")
    assert [shown(adjust, "temp", thinking=mode) for mode in (True, False)] == ["0.6", "0.7"]
    adjust.set("temp", "0.3")
    assert [shown(adjust, "temp", thinking=mode) for mode in (True, False)] == ["0.3", "0.3"]
    adjust.set("temp", "default")
    assert shown(adjust, "temp", thinking=True) == "0.6"


def test_a_flag_is_where_default_leads_back_to():
    adjust = adjustable(sampling={"temp": 0.2, "seed": 5}, thinking={"think_budget": 64})
    for key, other, before in (
        ("temp", "1", "0.2"),
        ("seed", "6", "5"),
        ("think_budget", "none", "64"),
    ):
        adjust.set(key, other)
        assert shown(adjust, key) == other
        adjust.set(key, "default")
        assert shown(adjust, key) == before


def test_an_answer_is_made_by_what_is_set():
    adjust = adjustable()
    for key, text in (
        *(("temp", "0.5"), ("top_p", "0.9"), ("top_k", "7"), ("min_p", "0.1")),
        *(("presence_penalty", "0.5"), ("repetition_penalty", "1.1"), ("seed", "9")),
        *(("max_tokens", "1k"), ("think_budget", "2k"), ("answer_reserve", "100")),
        ("loop_guard", "off"),
    ):
        adjust.set(key, text)
    made = adjust.options(thinking=True)
    values = [getattr(made.sampling, field) for field in SAMPLING.values()]
    assert values == [0.5, 0.9, 7, 0.1, 0.5, 1.1]
    assert made.sampling.seed == 9
    assert (made.max_tokens, made.think_budget, made.answer_reserve) == (1_024, 2_048, 100)
    assert not made.loop_guard
    adjust.set("think_budget", "none")
    assert adjust.options(thinking=True).think_budget is None


def test_argmax_takes_no_penalty_unless_one_is_set():
    adjust = adjustable()
    adjust.set("temp", "0")
    assert shown(adjust, "presence_penalty", thinking=True) == "0"
    adjust.set("presence_penalty", "1")
    assert adjust.options(thinking=True).sampling.presence_penalty == 1


def test_without_a_seed_each_answer_gets_its_own():
    adjust = adjustable()
    seeds = {adjust.options(thinking=True).sampling.seed for _ in range(8)}
    assert len(seeds) > 1
    assert shown(adjust, "seed") == "drawn"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("temp", "hot"), ("temp", ""), ("temp", "101"), ("temp", "-1"), ("temp", "nan")),
        *(("temp", "inf"), ("top_p", "1.1"), ("top_k", "1.5"), ("top_k", "-1"), ("min_p", "2")),
        *(("presence_penalty", "101"), ("repetition_penalty", "0"), ("seed", "x"), ("seed", "-1")),
        *(("seed", "9" * 30), ("max_tokens", "0"), ("max_tokens", "none"), ("think_budget", "-3")),
        *(("answer_reserve", "half"), ("loop_guard", "yes"), ("markdown", "1"), ("stats", "")),
        *(("thinking", "shown"), ("thinking", "on"), ("preset", "General")),
    ],
)
def test_what_no_value_can_be_changes_nothing(key, text):
    adjust = adjustable()
    before = adjust.lines("", thinking=True)
    with pytest.raises(UsageError) as caught:
        adjust.set(key, text)
    assert "\n" not in caught.value.message
    assert adjust.lines("", thinking=True) == before


@pytest.mark.parametrize(
    ("key", "text", "takes"),
    [
        ("temp", "101", "a number from 0 to 100"),
        ("top_k", "-1", "a whole number from 0 to 2,147,483,647"),
        ("think_budget", "x", "a count, as 2k, or none"),
        ("stats", "1", "on | off"),
    ],
)
def test_the_hint_says_what_can_be_typed(key, text, takes):
    with pytest.raises(UsageError) as caught:
        adjustable().set(key, text)
    assert caught.value.message == f"{key} cannot be '{text}'"
    assert caught.value.hint == f"/set {key} VALUE: {takes}; /set {key} default takes it back"


def test_an_unknown_key_gets_the_nearest():
    adjust = adjustable()
    for act in (
        lambda: adjust.set("top-p", "1"),
        lambda: adjust.lines("top-p", thinking=True),
    ):
        with pytest.raises(UsageError, match="no setting 'top-p'") as caught:
            act()
        assert caught.value.hint == "did you mean top_p?"
    with pytest.raises(UsageError) as caught:
        adjust.set("x" * 100, "1")
    assert caught.value.hint == "/show"
    assert len(caught.value.message) < 80


def test_every_key_is_shown_in_its_column():
    lines = adjustable().lines("", thinking=True)
    assert [line.split()[0] for line in lines] == list(KEYS)
    assert max(map(len, lines)) < 80


def test_tab_completes_keys_then_values():
    assert [key.strip() for key in completions("", KEYS)] == list(KEYS)
    assert list(completions("thinking ", KEYS)) == [
        *("thinking fold", "thinking show", "thinking hide", "thinking default"),
    ]
    assert list(completions("temp 0", KEYS)) == ["temp default"]
    assert all(key.endswith(" ") for key in completions("unknown x", KEYS))


def test_presets_of_files_can_be_set():
    adjust = adjustable(sampling={"presets": {"exact": {"temperature": 0.2}}})
    adjust.set("preset", "exact")
    sampling = adjust.options(thinking=True).sampling
    assert (sampling.temperature, sampling.top_k) == (0.2, 20)
    assert "preset exact" in completions("preset ", adjust.keys)
    with pytest.raises(UsageError) as caught:
        adjust.set("preset", "wild")
    assert "general | coding | reasoning | exact" in caught.value.hint
    assert adjust["preset"] == "exact"


def test_a_budget_of_nothing_is_answered_as_without_thinking():
    adjust = adjustable(thinking={"think_budget": 0})
    assert adjust.options(thinking=True).sampling.temperature == 0.7
    assert shown(adjust, "temp", thinking=True) == "0.7"
