"""Talks as tensors: rendered by the package's own template, grouped so that little is padding."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from qwen35cli.images.preprocess import Patches, preprocess
from qwen35cli.images.resize import ImageLimits
from qwen35cli.text.template import ImagePart, Message, Part, Text, render
from qwen35cli.text.tokenizer import Tokenizer

from .pictures import COLOURS, SHAPES, Scene
from .tasks import Kind, Talk, Turn, answer_without_thinking, make_talk

MERGE = 2
LIMITS = ImageLimits(
    patch_size=16,
    temporal_patch_size=2,
    merge_size=MERGE,
    min_pixels=96 * 16**2,
    max_pixels=144 * 16**2,
)
POOL = 256  # talks made at a time, then sorted by length


@dataclass(frozen=True)
class Sample:
    """One talk as tokens; what comes after the first `prompt` tokens is learnt."""

    ids: list[int]
    prompt: int
    patches: Patches | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right; pictures all of one grid."""

    kind: Kind
    ids: Tensor  # (B, T)
    learnt: Tensor  # (B, T) bool: tokens to be predicted
    positions: Tensor  # (3, B, T)
    pixels: Tensor | None = None  # (pictures * N, 1536)
    grids: tuple[tuple[int, int, int], ...] = ()
    cells: Tensor | None = None  # (pictures, N / 4) what each cell holds the centre of, 0 nothing

    @property
    def tokens(self) -> int:
        return self.ids.numel()


def to_sample(talk: Talk, tokenizer: Tokenizer) -> Sample:
    """Render a talk and append its last answer."""
    messages, shown = [], None
    if talk.system is not None:
        messages.append(Message("system", (Text(talk.system),)))
    for turn in talk.turns:
        parts: tuple[Part, ...] = (Text(turn.question),)
        if turn.picture is not None:
            shown = preprocess(turn.picture, LIMITS), turn.scene
            parts = (ImagePart(shown[0].tokens), *parts)
        messages.append(Message("user", parts))
        if turn is not talk.turns[-1]:
            messages.append(Message("assistant", (Text(said(talk, turn)),)))
    prompt = render(messages, tokenizer, thinking=talk.thinking)
    last = talk.turns[-1]
    answer = tokenizer.encode(said(talk, last))
    if talk.thinking:
        ends = [tokenizer.special.end_think]
        gap = tokenizer.encode("\n\n" + said(talk, last))
        answer = tokenizer.encode(last.thought + "\n") + ends + gap
    answer.append(tokenizer.special.im_end)
    return Sample(prompt + answer, len(prompt), *(shown or (None, None)))


def said(talk: Talk, turn: Turn) -> str:
    """The answer; with the working in it where a sum is done without thinking."""
    working = "ones:" in turn.thought and not talk.thinking
    return answer_without_thinking(turn) if working else turn.answer


def collate(kind: Kind, samples: list[Sample], tokenizer: Tokenizer) -> Batch:
    longest = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), longest), tokenizer.special.endoftext)
    learnt = torch.zeros_like(ids, dtype=torch.bool)
    positions = torch.arange(longest).repeat(3, len(samples), 1)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        learnt[row, sample.prompt : len(sample.ids)] = True
        if sample.patches is not None:
            start = sample.ids.index(tokenizer.special.image_pad)
            positions[:, row] = _positions(longest, start, sample.patches.grid)
    shown = [s for s in samples if s.patches is not None and s.scene is not None]
    if not shown:
        return Batch(kind, ids, learnt, positions)
    return Batch(
        kind,
        ids,
        learnt,
        positions,
        torch.cat([s.patches.pixels for s in shown if s.patches]),
        tuple(s.patches.grid for s in shown if s.patches),
        torch.stack([_cells(s.scene, s.patches.grid) for s in shown if s.scene and s.patches]),
    )


def _positions(length: int, start: int, grid: tuple[int, int, int]) -> Tensor:
    """(3, length) for a sequence with one picture whose cells begin at `start`."""
    rows, cols = grid[1] // MERGE, grid[2] // MERGE
    before = torch.arange(start).repeat(3, 1)
    cell = torch.arange(rows * cols)
    inside = start + torch.stack([torch.zeros_like(cell), cell // cols, cell % cols])
    rest = length - start - rows * cols
    after = torch.arange(rest).repeat(3, 1) + start + max(rows, cols)
    return torch.cat([before, inside, after], dim=1)


def _cells(scene: Scene, grid: tuple[int, int, int]) -> Tensor:
    """For each cell 0, or one more than the number of the shape and colour centred in it."""
    rows, cols = grid[1] // MERGE, grid[2] // MERGE
    cells = torch.zeros(rows * cols, dtype=torch.long)
    for x, y in scene.centres:
        at = min(rows - 1, int(y * rows)) * cols + min(cols - 1, int(x * cols))
        cells[at] = 1 + SHAPES.index(scene.shape) * len(COLOURS) + COLOURS.index(scene.colour)
    return cells


def batches(
    kind: Kind,
    rng: Random,
    tokenizer: Tokenizer,
    tokens: int,
    longest: int = 30,
    held_out: bool = False,
) -> Iterator[Batch]:
    """Batches of about `tokens` tokens without end."""
    if kind == "picture":
        yield from _picture_batches(rng, tokenizer, tokens, held_out)
        return
    pieces = () if held_out else word_pieces(tokenizer)
    while True:
        talks = (make_talk(kind, rng, held_out, longest, pieces) for _ in range(POOL))
        pool = sorted((to_sample(talk, tokenizer) for talk in talks), key=lambda s: len(s.ids))
        groups: list[list[Sample]] = [[]]
        for sample in pool:
            if groups[-1] and len(sample.ids) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        for group in groups:
            yield collate(kind, group, tokenizer)


def word_pieces(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens that are letters alone, with or without a space before."""
    texts = (tokenizer.token_bytes(i).decode(errors="replace") for i in range(tokenizer.vocab_size))
    return tuple(
        sorted({text.strip() for text in texts if text.strip().isalpha() and text.isascii()})
    )


def _picture_batches(
    rng: Random, tokenizer: Tokenizer, tokens: int, held_out: bool
) -> Iterator[Batch]:
    pools: defaultdict[tuple[object, int], list[Sample]] = defaultdict(list)
    while True:
        sample = to_sample(make_talk("picture", rng, held_out), tokenizer)
        assert sample.patches is not None
        pool = pools[sample.patches.grid, len(sample.ids) // 25]
        pool.append(sample)
        if len(pool) * len(sample.ids) >= tokens:
            yield collate("picture", pool, tokenizer)
            pool.clear()
