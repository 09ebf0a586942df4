"""What the demo learns: conversations of four kinds, made at random without end.

Every maker takes a generator of random numbers and says whether to draw from what evaluation keeps
for itself: held-out phrasings, pairs of numbers, code words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from . import faq
from .lexicon import (
    NAMES,
    NOUNS,
    PLACES,
    VERBS,
    code_word,
    filler,
    noun_phrase,
    pseudo_word,
    sentence,
)
from .pictures import Scene, draw

Kind = Literal["faq", "sum", "picture", "recall"]


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `picture` comes before the question."""

    question: str
    thought: str
    answer: str
    picture: Image.Image | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class Talk:
    """A conversation; only its last answer is learnt."""

    kind: Kind
    turns: tuple[Turn, ...]
    thinking: bool
    system: str | None = None


SYSTEMS = (
    "You are a helpful assistant.",
    "Be brief.",
    "You are a friendly assistant.",
    "Answer in English.",
    "Be polite and precise.",
    "You are qwen35.",
    "Answer the question of the user.",
    "Keep your answers short.",
)


LONG_SHARE, LONGEST = 0.08, 400  # of the recalls in training, and sentences of filler in those


def make_talk(
    kind: Kind, rng: Random, held_out: bool = False, longest: int = 120, pieces: Sequence[str] = ()
) -> Talk:
    """A conversation of one kind; `longest` bounds the sentences of filler in a recall.

    `pieces` are what its code words are glued from in training."""
    thinking = rng.random() < (0.7 if kind == "picture" else 0.5)  # thought names all there is
    system = None
    if rng.random() < 0.1:
        system = rng.choice(SYSTEMS) if rng.random() < 0.6 else sentence(rng)
    earlier: tuple[Turn, ...] = ()
    if rng.random() < (0.03 if kind == "picture" else 0.08):
        earlier = tuple(
            TURNS[rng.choice(("faq", "faq", "sum"))](rng, False)
            for _ in range(rng.choice((1, 1, 2)))
        )
    if kind == "recall":
        if not held_out and rng.random() < LONG_SHARE:
            longest = LONGEST
        return Talk(
            kind, (*earlier, *recall_turns(rng, held_out, longest, pieces)), thinking, system
        )
    if kind == "picture":
        return Talk(kind, (*earlier, *picture_turns(rng)), thinking, system)
    return Talk(kind, (*earlier, TURNS[kind](rng, held_out)), thinking, system)


# ---------------------------------------------------------------------------- questions about us


def faq_turn(rng: Random, held_out: bool = False) -> Turn:
    """A question about the program, or about anything else."""
    if rng.random() < (0.06 if held_out else 0.16):
        grammar = rng.choice(faq.OTHER_HELD_OUT if held_out else faq.OTHER)
        while "{" in grammar:
            for name, value in (
                ("{place}", rng.choice(PLACES)),
                ("{the}", noun_phrase(rng) if rng.random() < 0.85 else rng.choice(NAMES)),
                ("{verb}", rng.choice(VERBS)),
                ("{noun}", rng.choice(NOUNS)),
                ("{name}", rng.choice(NAMES)),
                ("{number}", str(rng.randint(1, 2100))),
                ("{phrase}", sentence(rng) if rng.random() < 0.6 else pseudo_word(rng)),
            ):
                grammar = grammar.replace(name, value, 1)
        return Turn(
            _spoken(faq.expand(grammar, rng), rng, held_out), faq.OTHER_THOUGHT, faq.OTHER_ANSWER
        )
    intent = rng.choice(faq.INTENTS)
    grammar = rng.choice(intent.held_out if held_out else intent.phrasings)
    return Turn(_spoken(faq.expand(grammar, rng), rng, held_out), intent.thought, intent.answer)


_OPENINGS = ("hi,", "hello,", "hey,", "please,", "ok,", "so,", "and", "now", "tell me,",
             "question:", "quick question:", "excuse me,", "sorry,", "hi!", "hello!", "demo,",
             "well,", "um,")  # fmt: skip
_CLOSINGS = ("please", "thanks", "here", "exactly", "in this program", "then", "now", "again",
             "in qwen35", "today", "with this", "for me")  # fmt: skip


def _spoken(text: str, rng: Random, plain: bool = False) -> str:
    """The sentence as different people would type it."""
    if not plain:
        if rng.random() < 0.2:
            text = f"{rng.choice(_OPENINGS)} {text}"
        if rng.random() < 0.12:
            text = f"{text} {rng.choice(_CLOSINGS)}"
        if rng.random() < 0.15:
            text = _mistyped(text, rng)
    style = rng.random()
    if style < 0.4:
        text = text[0].upper() + text[1:]
    elif style < 0.75:
        text = text.lower()
    elif style < 0.78:
        text = text.upper()
    return text + rng.choice(("?", "?", "?", "", "", ".", "!"))


def _mistyped(text: str, rng: Random) -> str:
    at = rng.randrange(len(text))
    kind = rng.random()
    if kind < 0.4:
        return text[:at] + text[at + 1 :] or text
    if kind < 0.7:
        return text[:at] + text[at : at + 1] * 2 + text[at + 1 :]
    return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


# ---------------------------------------------------------------------------- sums

_ADD = (
    "{a}+{b}", "{a} + {b}", "what is {a}+{b}", "what is {a} + {b}", "what is {a} plus {b}",
    "{a} plus {b}", "add {a} and {b}", "add {b} to {a}", "the sum of {a} and {b}",
    "what is the sum of {a} and {b}", "calculate {a} + {b}", "compute {a}+{b}", "{a}+{b}=",
    "{a} + {b} =", "{a} + {b} = ?", "how much is {a} + {b}", "how much is {a} plus {b}",
    "what do {a} and {b} make", "sum {a} and {b}", "what's {a}+{b}", "solve {a} + {b}",
    "can you add {a} and {b}", "please add {a} and {b}", "what do you get for {a} + {b}",
    "I have {a} apples and get {b} more, how many do I have", "{a} and {b} together",
    "tell me {a} + {b}",
)  # fmt: skip
_SUBTRACT = (
    "{a}-{b}", "{a} - {b}", "what is {a}-{b}", "what is {a} - {b}", "what is {a} minus {b}",
    "{a} minus {b}", "subtract {b} from {a}", "take {b} from {a}", "take {b} away from {a}",
    "calculate {a} - {b}", "compute {a}-{b}", "{a}-{b}=", "{a} - {b} =", "{a} - {b} = ?",
    "how much is {a} - {b}", "how much is {a} minus {b}", "what's {a}-{b}", "solve {a} - {b}",
    "can you subtract {b} from {a}", "please take {b} away from {a}",
    "what do you get for {a} - {b}",
    "what is {a} less {b}", "what remains of {a} without {b}", "tell me {a} - {b}",
    "what is left when I take {b} from {a}",
)  # fmt: skip


def is_held_out(a: int, b: int) -> bool:
    """A tenth of all pairs of numbers, never trained on."""
    return (a * 7919 + b * 104_729 + 17) % 10 == 0


def sum_turn(rng: Random, held_out: bool = False) -> Turn:
    """An addition or subtraction of numbers of up to three digits."""
    plus = rng.random() < 0.45
    while True:
        if rng.random() < 0.5:
            a, b = rng.randint(0, 999), rng.randint(0, 999)
        else:
            a, b = (rng.randint(0, 10 ** rng.randint(1, 3) - 1) for _ in range(2))
        # Close to one another, the comparison is hard: more of these in training.
        if not plus and rng.random() < (0.1 if held_out else 0.3):
            b = min(999, max(0, a + rng.randint(-12, 12)))
        if is_held_out(a, b) == held_out:
            break
    question = rng.choice(_ADD if plus else _SUBTRACT).format(a=a, b=b)
    style = rng.random()
    if style < 0.6:
        question = question[0].upper() + question[1:]
    if question[-1] not in "=?":
        question += rng.choice(("?", "?", "", "", "."))
    steps = "\n".join(addition(a, b) if plus else subtraction(a, b))
    result = f"{a} {'+' if plus else '-'} {b} = {a + b if plus else a - b}"
    return Turn(question, steps, result)


_COLUMNS = (("ones", 1), ("tens", 10), ("hundreds", 100))


def addition(a: int, b: int) -> list[str]:
    """Column by column; a sum of two digits carries."""
    lines, carry = [f"{a:03}+{b:03}"], 0
    for name, unit in _COLUMNS:
        first, second = a // unit % 10, b // unit % 10
        total = first + second + carry
        lines.append(f"{name}: {first}+{second}{'+1' if carry else ''}={total}")
        carry = total // 10
    return lines


def subtraction(a: int, b: int) -> list[str]:
    """Column by column, the smaller from the larger; a `+10` borrows."""
    if a < b:
        lines = [f"{a:03}<{b:03}, so -({b:03}-{a:03})"]
        a, b = b, a
    else:
        lines = [f"{a:03}-{b:03}"]
    borrow = 0
    for name, unit in _COLUMNS:
        first, second = a // unit % 10, b // unit % 10
        short = first - second - borrow < 0
        total = first - second - borrow + 10 * short
        lines.append(
            f"{name}: {first}-{second}{'-1' if borrow else ''}{'+10' if short else ''}={total}"
        )
        borrow = int(short)
    return lines


def answer_without_thinking(turn: Turn) -> str:
    """The working in the answer itself, on one line, where there is no think block for it."""
    return f"{turn.thought.replace(chr(10), ', ')}. So {turn.answer}"


# ---------------------------------------------------------------------------- pictures

_NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
_DESCRIBE = (
    "What is in the picture?", "what is this", "What do you see?", "Describe the picture.",
    "what is in this image", "Describe this image", "what does the picture show", "What is it?",
    "what is on the picture?", "Tell me what you see.", "", "What can you see here?",
    "describe it", "What is shown?", "what's this?", "look at this",
)  # fmt: skip
_COLOUR = (
    "Which colour is it?", "what colour is the {shape}", "What color is it?", "which color",
    "What is the colour?", "what colour do you see", "Which colour has the {shape}?", "colour?",
    "what is the color of the {shape}?", "Name the colour.", "what colour is in the picture?",
)  # fmt: skip
_SHAPE = (
    "Which shape is it?", "what shape is this", "What shape do you see?", "which shape",
    "What kind of shape is in the picture?", "name the shape", "Which shape is shown?", "shape?",
    "what figure is this?", "What is the shape?", "what form does it have?",
)  # fmt: skip
_COUNT = (
    "How many shapes are there?", "how many {shape}s are there", "How many?", "count the {shape}s",
    "How many {shape}s do you see?", "how many things are in the picture", "Count them.",
    "What is the number of {shape}s?", "how many objects?", "Count the shapes in the picture.",
)  # fmt: skip
_WHERE = (
    "Where is it?", "where is the {shape}", "Where is the {shape}?", "at which place is it?",
    "What is its position?", "where in the picture is the {shape}?",
    "Which corner or side is it at?",
    "position?", "Where do you see it?", "where is the {colour} {shape}?",
)  # fmt: skip


def says(scene: Scene) -> str:
    """What is in the picture, in one phrase."""
    if scene.position is not None:
        return f"{_article(scene.colour)} {scene.colour} {scene.shape} at the {scene.position}"
    return f"{_NUMBER_WORDS[scene.count]} {scene.colour} {scene.shape}s"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


QUESTIONS = ("describe", "colour", "shape", "count", "where")


def picture_question(scene: Scene, asked: str, rng: Random) -> tuple[str, str]:
    """A question of one kind about the scene, and its answer."""
    one = scene.count == 1
    forms, answer = {
        "describe": (_DESCRIBE, says(scene)),
        "colour": (_COLOUR, scene.colour),
        "shape": (_SHAPE, f"{_article(scene.shape)} {scene.shape}" if one else f"{scene.shape}s"),
        "count": (_COUNT, _NUMBER_WORDS[scene.count]),
        "where": (_WHERE, f"at the {scene.position}" if scene.position else "in several places"),
    }[asked]
    return rng.choice(forms).format(shape=scene.shape, colour=scene.colour), _said(answer)


def _said(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def picture_turns(rng: Random) -> list[Turn]:
    """A question about a picture, sometimes with another one after it."""
    picture, scene = draw(rng)
    asked = list(QUESTIONS)
    if scene.position is None and rng.random() < 0.8:
        asked.remove("where")
    if scene.count == 1 and rng.random() < 0.5:
        asked.remove("count")
    turns = []
    for i, kind in enumerate(rng.choices(asked, k=2 if rng.random() < 0.15 else 1)):
        question, answer = picture_question(scene, kind, rng)
        shown = (picture, scene) if i == 0 else (None, None)
        turns.append(Turn(question, f"I see {says(scene)}.", answer, *shown))
    return turns


# ---------------------------------------------------------------------------- recall

_PLANTED = (
    "The code word is {w}.", "the code word is {w}", "Remember this code word: {w}.",
    "The secret code word is {w}.", "Code word: {w}", "code word: {w}.", "My code word is {w}.",
    "Please remember that the code word is {w}.", "Note: the code word is {w}.",
    "The code word for today is {w}.", "{w} is the code word.", "The code word is \"{w}\".",
    "Remember the code word {w}.", "By the way, the code word is {w}.", "The codeword is {w}.",
    "Keep in mind: the code word is {w}!", "Our code word: {w}.",
)  # fmt: skip
_ASKED = (
    "What is the code word?", "what is the code word", "What was the code word?", "code word?",
    "Which code word was given?", "Tell me the code word.", "Which code word is in the text?",
    "Do you remember the code word?", "What's the code word?", "repeat the code word",
    "Please tell me the code word.", "What is the secret code word?", "Say the code word.",
    "Find the code word.", "what code word did I give you?", "which is the code word?",
    "What is the code word in the text above?",
)  # fmt: skip


def recall_turns(
    rng: Random, held_out: bool, longest: int, pieces: Sequence[str] = ()
) -> list[Turn]:
    """A code word somewhere in a text of up to `longest` sentences, then the question."""
    word = code_word(rng, held_out, pieces)
    planted = rng.choice(_PLANTED).format(w=word)
    answer, thought = f"The code word is {word}.", f"The text says: {word}."
    question = rng.choice(_ASKED)
    length = round(longest * rng.random() ** 1.5) if longest > 1 else 1
    parts = filler(rng, length)
    at = rng.randint(0, len(parts))
    gap = rng.choice((" ", "\n")) if at == len(parts) or parts[at - 1][-1:] != "\n" else "\n"
    text = "".join([*parts[:at], planted + gap, *parts[at:]]).rstrip()
    if rng.random() < 0.2:
        told = Turn(text, "I should remember this.", f"I will remember it: {word}.")
        if rng.random() < 0.15:
            return [told]
        between = [faq_turn(rng)] if rng.random() < 0.3 else []
        return [told, *between, Turn(question, thought, answer)]
    if rng.random() < 0.25:
        return [Turn(f"{question}\n\n{text}", thought, answer)]
    gap = rng.choice((" ", "\n", "\n\n", "\n\n", "\n\n"))
    return [Turn(text + gap + question, thought, answer)]


TURNS = {"faq": faq_turn, "sum": sum_turn}
