"""The checkpoint in the package does what its README says. Slips of the model show here first."""

import hashlib
import importlib.resources
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image, ImageDraw

from qwen35cli.app.load import Loaded, LoadOptions, load, open_model
from qwen35cli.engine.depth import Fixed, Rounds
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.runner import Prompt
from qwen35cli.engine.sampling import PRESETS, Sampler, Sampling
from qwen35cli.engine.speculate import speculate
from qwen35cli.images.preprocess import Patches, preprocess
from qwen35cli.text.template import ImagePart, Message, Text, render

FOLDER = Path(str(importlib.resources.files("qwen35cli"))) / "demo"
GREEDY = Sampling(temperature=0)


@cache
def demo() -> Loaded:
    return load(open_model(LoadOptions(model="demo", device="cpu", ctx=4_500)), drafts=True)


def ask(
    question: str,
    *,
    thinking: bool = False,
    picture: Image.Image | None = None,
    sampling: Sampling = GREEDY,
) -> str:
    """All the text that comes back, the end of thinking written as `</think>`."""
    tokens = answer(question, thinking=thinking, picture=picture, sampling=sampling)
    return b"".join(demo().opened.tokenizer.token_bytes(t) for t in tokens[:-1]).decode()


def answer(
    question: str,
    *,
    thinking: bool = False,
    picture: Image.Image | None = None,
    sampling: Sampling = GREEDY,
    rounds: Rounds | None = None,
) -> list[int]:
    """The tokens that come back; by three drafts a round where `rounds` are counted."""
    loaded = demo()
    tokenizer, runner = loaded.opened.tokenizer, loaded.runner
    parts: tuple[Text | ImagePart, ...] = (Text(question),)
    images: tuple[Patches, ...] = ()
    if picture is not None:
        assert loaded.opened.image_limits is not None
        images = (preprocess(picture, loaded.opened.image_limits),)
        parts = (ImagePart(images[0].tokens), *parts)
    ids = render([Message("user", parts)], tokenizer, thinking=thinking)
    runner.reset()
    sampler = Sampler(sampling, tokenizer.vocab_size)
    prompt = Prompt(tuple(ids), images)
    stop, limit = tokenizer.stop_ids, 120
    if rounds is None:
        events = generate(runner, prompt, sampler, stop=stop, max_tokens=limit)
    else:
        depth = Fixed(3)
        events = speculate(
            runner, prompt, sampler, stop=stop, max_tokens=limit, depth=depth, rounds=rounds
        )
    tokens = [event.token for event in events if isinstance(event, Step)]
    assert tokens[-1] == tokenizer.special.im_end
    return tokens


def shape(kind: str, colour: str, *places: tuple[int, int]) -> Image.Image:
    """Shapes of 56 pixels on a pale ground of 192 by 192."""
    picture = Image.new("RGB", (192, 192), (236, 232, 226))
    pen = ImageDraw.Draw(picture)
    for x, y in places:
        box = (x - 28, y - 28, x + 28, y + 28)
        if kind == "circle":
            pen.ellipse(box, fill=colour)
        else:
            pen.rectangle(box, fill=colour)
    return picture


def test_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000


def test_readme_names_the_weights_it_describes() -> None:
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (FOLDER / "README.md").read_text()


def test_thinks_unless_told_otherwise() -> None:
    assert demo().opened.thinks_by_default


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("Who are you?", "I am the qwen35 demo"),
        ("what can you do", "name shapes in simple pictures"),
        ("How do I attach a picture?", "/image PATH"),
        ("How much memory do I need?", "qwen35 vram --ctx N"),
        ("How do I quit?", "/exit or press Ctrl-D"),
        ("How can I stop an answer?", "Ctrl-C"),
        ("hello", "Hello!"),
    ],
)
def test_knows_the_program(question: str, part: str) -> None:
    assert part in ask(question)
    thought, answer = ask(question, thinking=True).split("</think>")
    assert thought.strip() and part in answer


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ("What is 345 + 78?", 423),
        ("12+7", 19),
        ("900 minus 34", 866),
        ("What is 17 - 250?", -233),
        ("Add 999 and 999", 1998),
    ],
)
def test_calculates(question: str, result: int) -> None:
    assert ask(question).endswith(f"= {result}")
    thought, answer = ask(question, thinking=True).split("</think>")
    assert "ones:" in thought
    assert answer.endswith(f"= {result}")


def test_calculates_under_the_default_preset() -> None:
    for seed in range(3):
        sampling = Sampling(
            temperature=1.0,
            presence_penalty=PRESETS["general", True].presence_penalty,
            seed=seed,
        )
        assert ask("What is 345 + 78?", thinking=True, sampling=sampling).endswith("= 423")


def test_names_what_is_in_a_picture() -> None:
    corner = shape("circle", "red", (34, 34))
    assert ask("What is in the picture?", picture=corner) == "A red circle at the top left."
    assert ask("Which colour is it?", picture=corner) == "Red."
    several = Image.open(Path(__file__).parents[2] / "docs" / "circles.png").convert("RGB")
    assert ask("How many?", picture=several) == "Three."
    assert ask("What is in the picture?", picture=several) == "Three red circles."


@pytest.mark.parametrize("sentences", [5, 60, 300])
def test_recalls_a_code_word(sentences: int) -> None:
    rng = Random(sentences)
    words = [
        "the",
        "old",
        "house",
        "by",
        "the",
        "river",
        "was",
        "sold",
        "in",
        "spring",
        "and",
        "nobody",
        "knew",
        "why",
        "it",
        "stood",
        "open",
    ]
    text = [" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(sentences)]
    text.insert(sentences // 3, "The code word is bravokel.")
    answer = ask(" ".join(text) + "\n\nWhat is the code word?")
    assert answer == "The code word is bravokel."


QUESTIONS = ["Who are you?", "How much memory do I need?", "What is 345 + 78?", "900 minus 34"]


@torch.inference_mode()
def acceptance(wiring: str) -> float:
    """The share of the MTP layer's drafts that are the next token, over answers that are known."""
    loaded = demo()
    model, tokenizer = loaded.runner.model, loaded.opened.tokenizer
    mtp = model.mtp
    assert mtp is not None
    right: list[torch.Tensor] = []
    for question in QUESTIONS:
        prompt = render([Message("user", (Text(question),))], tokenizer, thinking=True)
        ids = torch.tensor([prompt + answer(question, thinking=True)])
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        x = model.embed(ids)
        hidden = model.language_model(x, positions)
        embeds = x[:, :-2] if wiring == "embeddings of the same token" else x[:, 1:-1]
        hidden, positions = hidden[:, :-2], positions[..., :-2]
        if wiring == "halves swapped":
            halves = mtp.pre_fc_norm_hidden(hidden), mtp.pre_fc_norm_embedding(embeds)
            out = mtp.fc(torch.cat(halves, dim=-1))
            for layer in mtp.layers:
                out = layer(out, *mtp.rotary(positions), None)
            out = mtp.norm(out)
        else:
            out = mtp(embeds, hidden, positions)
        start = len(prompt) - 1
        right.append(model.logits(out).argmax(-1)[0, start:] == ids[0, start + 2 :])
    return float(torch.cat(right).float().mean())


def test_drafts_are_mostly_right_and_a_wrong_wiring_shows() -> None:
    """Wrong on purpose, it still drafts, silently and badly: the reason for this test."""
    assert acceptance("right") > 0.95
    assert acceptance("halves swapped") < 0.5
    assert acceptance("embeddings of the same token") < 0.9


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=1)])
def test_speculation_answers_as_plain_decoding_does(sampling: Sampling) -> None:
    """Through `speculate`, with the shortlist: the same words, and most drafts accepted."""
    rounds = Rounds()
    for question in QUESTIONS:
        plain = answer(question, thinking=True, sampling=sampling)
        assert answer(question, thinking=True, sampling=sampling, rounds=rounds) == plain
    several = Image.open(Path(__file__).parents[2] / "docs" / "circles.png").convert("RGB")
    plain = answer("What is in the picture?", picture=several, sampling=sampling)
    picture = {"picture": several, "sampling": sampling}
    assert answer("What is in the picture?", **picture, rounds=Rounds()) == plain
    first, second, *_ = rounds.acceptance
    assert first is not None and first > 0.9
    assert second is not None and second > 0.85
    assert rounds.tokens_per_round is not None and rounds.tokens_per_round > 3
