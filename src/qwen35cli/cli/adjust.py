"""What `/set` changes and `/show` tells: sampling, limits, and how answers are shown."""

import difflib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer

from qwen35cli.app.conversation import Options
from qwen35cli.engine.sampling import PRESET_NAMES, choose
from qwen35cli.errors import UsageError

from .config import SAMPLING
from .options import Flags
from .values import NUMBERS, budget, tokens

SHOWN: Final = ("fold", "show", "hide")  # ways of showing the thinking


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError
    return text.lower() == "on"


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Key:
    """Something that can be set."""

    help: str
    parse: Callable[[str], Any]
    form: str  # what a value looks like
    values: tuple[str, ...] = ()  # what Tab offers


def _preset(names: tuple[str, ...]) -> Key:
    return Key(
        "row of the model card, or of your settings", _one_of(*names), " | ".join(names), names
    )


def _number(key: str, help: str) -> Key:
    return Key(help, NUMBERS[key].read, str(NUMBERS[key]))


ON_OFF = ("on", "off")
KEYS: Final[Mapping[str, Key]] = {
    "preset": _preset(PRESET_NAMES),
    "temp": _number("temp", "temperature; 0 takes the likeliest token"),
    "top_p": _number("top_p", "likeliest tokens up to this share"),
    "top_k": _number("top_k", "so many of the likeliest tokens; 0 keeps all"),
    "min_p": _number("min_p", "no tokens below this share of the best"),
    "presence_penalty": _number("presence_penalty", "against tokens already generated"),
    "repetition_penalty": _number("repetition_penalty", "the same as a factor; 1 is off"),
    "seed": _number("seed", "same seed, same text; otherwise drawn anew"),
    "max_tokens": Key("most tokens of an answer", tokens, "a count, as 2k"),
    "think_budget": Key("most tokens of thinking", budget, "a count, as 2k, or none", ("none",)),
    "answer_reserve": Key("context that thinking leaves", tokens, "a count, as 1k"),
    "loop_guard": Key("end what repeats itself", _switch, "on | off", ON_OFF),
    "thinking": Key("how thinking is shown", _one_of(*SHOWN), " | ".join(SHOWN), SHOWN),
    "markdown": Key("render answers", _switch, "on | off", ON_OFF),
    "stats": Key("the line after each answer", _switch, "on | off", ON_OFF),
}


class Adjustable:
    """The settings of a chat. What was not set follows the preset and the mode."""

    def __init__(self, flags: Flags) -> None:
        sampling, thinking = flags.sampling, flags.thinking
        self._presets = sampling.presets
        names = tuple(dict.fromkeys((*PRESET_NAMES, *self._presets)))
        self.keys: Mapping[str, Key] = {**KEYS, "preset": _preset(names)}
        of_sampling = ("preset", *SAMPLING, "seed", "max_tokens")
        given = {key: getattr(sampling, key) for key in of_sampling} | {
            "think_budget": thinking.think_budget,
            "answer_reserve": thinking.answer_reserve,
            "loop_guard": not thinking.no_loop_guard,
            "thinking": "hide" if thinking.hide_thinking else "fold",
            "markdown": not flags.output.no_markdown,
            "stats": True,
        }
        self._start = {key: value for key, value in given.items() if value is not None}
        self._values: dict[str, Any] = dict(self._start)

    def __getitem__(self, key: str) -> Any:
        return self._values.get(key)

    def set(self, key: str, text: str) -> None:
        """Take `text` as the value of `key`; `default` takes a change back.

        Raises:
            UsageError: no such key, or no such value; nothing has changed.
        """
        known = _known(key, self.keys)
        if text == "default":
            self._values.pop(key, None)
            if key in self._start:
                self._values[key] = self._start[key]
            return
        try:
            self._values[key] = known.parse(text)
        except (ValueError, typer.BadParameter):
            raise UsageError(
                f"{key} cannot be {text[:40]!r}",
                f"/set {key} VALUE: {known.form}; /set {key} default takes it back",
            ) from None

    def options(self, *, thinking: bool) -> Options:
        """How the next answer is made, thought about first or not; a budget of 0 is not. Without a
        seed one is drawn."""
        values = self._values
        given = {field: values[key] for key, field in SAMPLING.items() if key in values}
        seed = values["seed"] if "seed" in values else secrets.randbelow(2**32)
        limit = values["think_budget"]
        return Options(
            sampling=choose(
                values["preset"],
                thinking=thinking and limit != 0,
                seed=seed,
                given=given,
                presets=self._presets,
            ),
            max_tokens=values["max_tokens"],
            think_budget=None if limit < 0 else limit,
            answer_reserve=values.get("answer_reserve"),
            loop_guard=values["loop_guard"],
        )

    def lines(self, key: str, *, thinking: bool) -> list[str]:
        """What is set, a line for each key, or for one.

        Raises:
            UsageError: no such key.
        """
        if key:
            _known(key, self.keys)
        width = max(map(len, KEYS))
        return [
            f"{name:<{width}}  {self._spoken(name, thinking):<8}  {KEYS[name].help}"
            for name in ([key] if key else KEYS)
        ]

    def _spoken(self, key: str, thinking: bool) -> str:
        if key in SAMPLING:
            return f"{getattr(self.options(thinking=thinking).sampling, SAMPLING[key]):g}"
        value = self._values.get(key)
        if value is None:
            return "drawn" if key == "seed" else "auto"
        if isinstance(value, bool):
            return "on" if value else "off"
        if key == "think_budget" and value < 0:
            return "none"
        return f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


def _known(key: str, keys: Mapping[str, Key]) -> Key:
    if key in keys:
        return keys[key]
    near = difflib.get_close_matches(key, keys, 1)
    raise UsageError(
        f"there is no setting {key[:40]!r}", f"did you mean {near[0]}?" if near else "/show"
    )


def completions(typed: str, keys: Mapping[str, Key]) -> Iterable[str]:
    """Keys, then the values of the key that was typed."""
    key, blank, _ = typed.partition(" ")
    if blank and key in keys:
        return [f"{key} {value}" for value in (*keys[key].values, "default")]
    return [f"{key} " for key in keys]
