"""Drafts in Triton against their plain twin: pairs that are joined, the best row, a whole round."""

from dataclasses import replace

import pytest
import torch

from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import DraftWeights, Int8Rows
from qwen35cli.model import draft_head
from qwen35cli.model.draft_head import DraftHead

pytest.importorskip("triton", reason="Triton has no wheel for this system")

from qwen35cli.kernels.triton import draft_step, drafts, tiles
from qwen35cli.kernels.triton.launches import Launches
from qwen35cli.kernels.triton.matvec import Stream
from tests.kernels.test_step import (
    DEVICE,
    TOLERANCE,
    VOCABULARY,
    D,
    R,
    half,
    matrix,
    prepared,
    weights,
)


def mtp(kind, kv_dtype=torch.bfloat16):
    """A layer whose memory is random where nothing was written, and all that stands around it."""
    step = weights(kind, kv_dtype)
    other = "bf16" if kind == "bf16" else "int8"
    return DraftWeights(
        embedding=step.embedding,
        embedding_norm=half(D),
        hidden_norm=half(D),
        fc=matrix(other, D, 2 * D),
        block=step.blocks[1],
        norm=half(D),
        eps=1e-6,
        head=step.head,
        frequencies=torch.rand(R, device=DEVICE),
        magnitude=1.1,
    )


@pytest.fixture
def shortlist(monkeypatch):
    """Makes a `DraftHead` of a matrix: ids up to 100, from 245 to 249, and what is used."""
    monkeypatch.setattr(draft_head, "USED", 48)
    monkeypatch.setattr(draft_head, "BLOCK", 40)
    kernels = select(DEVICE, "triton")
    return lambda head: DraftHead(kernels, head, tokens=250, control=245, common=100)


def listed(candidates):
    """The ids that can be picked, in their order."""
    return [token for each in candidates for token in reference._ids(each).tolist()]


@pytest.mark.parametrize("kind", ["int8", "bf16"])
@pytest.mark.parametrize(("pairs", "width"), [(1, 128), (3, 384)])
def test_pairs_are_joined_as_the_twin_joins_them(kind, pairs, width, poisoned):
    norms = {name: half(width) for name in ("embedding_norm", "hidden_norm", "norm")}
    w = replace(mtp(kind), embedding=matrix(kind, VOCABULARY, width), **norms)
    ids = torch.randint(VOCABULARY, (pairs,), device=DEVICE)
    numbers = torch.tensor([7, -3], dtype=torch.int32, device=DEVICE)
    for own in (False, True):
        hidden = half(8, width, scale=3).float() if own else half(8, width)
        out, turned = half(8, 2 * width), torch.full((2, 8, R), torch.nan, device=DEVICE)
        draft_step.join(ids, hidden, w, numbers, out, *turned, pairs)
        state = hidden[:pairs]
        if own:
            state = reference.rms_norm(state, w.norm, w.eps).bfloat16()
        embeds = reference.rows(w.embedding, ids).bfloat16()
        both = embeds.float(), state.float()
        expected = reference.joined(*both, w.embedding_norm, w.hidden_norm, w.eps)
        torch.testing.assert_close(out[:pairs].float(), expected, rtol=0.01, atol=0.01)
        angles = reference.text_angles(4, pairs, w.frequencies, w.magnitude)
        torch.testing.assert_close(turned[:, :pairs], torch.cat(angles))


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_the_best_row_of_a_shortlist_is_picked(kind, shortlist):
    """Ranges that begin and end within tiles, blocks and copied rows that come and go."""
    w = mtp(kind)
    loop, head = drafts.draft_loop(w, Launches.of(DEVICE, {})), shortlist(w.head)
    launch = loop.launches.find("head", w.head)
    stream = Stream.room(D, DEVICE)
    stream.squares.fill_(1.0)
    numbers = torch.tensor([5], dtype=torch.int32, device=DEVICE)
    picked = set()
    turns = [], [130], [130, 201], [244, 101], [160] * 9, range(200, 240)
    for turn, used in enumerate(turns):
        if turn == 3:  # as many copied rows as before, and others
            head.clear()
        head.use(used)
        stream.scaled.copy_(half(8, D))
        found = loop._listed(head.candidates)
        assert {*found.choices.ids.tolist()} - {-1} == {*listed(head.candidates)}
        for row in (0, 5):
            at = Stream(stream.x[row:], stream.scaled[row:], stream.squares[row:])
            ids = torch.full((2,), -1, device=DEVICE)
            draft_step.likeliest(
                at, w.eps, w.head, found.copied, found.choices, ids, numbers, 3, launch
            )
            allowed = torch.tensor(listed(head.candidates), device=DEVICE)
            logits = reference.linear(at.scaled[0].float(), w.head)[allowed]
            assert ids.tolist() == [int(allowed[logits.argmax()]), -1]
            picked.add(ids[0].item())
        assert numbers.tolist() == [5 + 6 * (turn + 1)]
    assert max(picked) > 244 and picked & {*range(100, 245)}


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_of_equal_rows_the_first_is_picked(kind, shortlist):
    w = mtp(kind)
    for each in (w.head,) if kind == "bf16" else (w.head.packed, w.head.scale):
        each[:] = each[:1].clone()
    loop, head = drafts.draft_loop(w, Launches.of(DEVICE, {})), shortlist(w.head)
    head.use([101])
    assert loop([1], half(1, 1, D), 4, 5, 2, head.candidates) == [0, 0]
    assert loop([1], half(1, 1, D), 4, 5, 1, head.candidates[1:]) == [245]
    assert loop([1], half(1, 1, D), 4, 5, 1, head.candidates[2:]) == [101]


def test_graphs_stay_while_the_rows_that_were_copied_come_and_go(shortlist):
    """Those that the warm-up made serve all conversations."""
    made = mtp("int8")
    loop, head = drafts.draft_loop(made, Launches.of(DEVICE, {})), shortlist(made.head)

    def graphs():
        loop([1], half(1, 1, D), 4, 5, 1, head.candidates)
        return loop._shortlist.graphs

    head.use([101])
    first = graphs()
    head.clear()
    assert graphs() is first
    head.use([103, 102])
    assert graphs() is first and list(first) == [(1, 1)]


@pytest.mark.parametrize(
    ("kind", "kv_dtype"),
    [("int4", torch.bfloat16), ("int8", torch.int8), ("bf16", torch.bfloat16)],
    ids=str,
)
def test_a_round_is_that_of_the_plain_twin(kind, kv_dtype, shortlist):
    """Each draft is the likeliest by the twin, which follows with the same ones; keys agree."""
    made, twin = mtp(kind, kv_dtype), mtp(kind, kv_dtype)
    (block,) = prepared(replace(weights(kind, kv_dtype), blocks=(made.block,))).blocks
    ours = drafts.draft_loop(replace(made, block=block), Launches.of(DEVICE, {}))
    assert ours is not None and ours.pairs == 8
    head, follow, start = shortlist(made.head), follower(twin), 4
    for pairs, count in ((1, 2), (3, 1), (2, 2)):
        ids = torch.randint(VOCABULARY, (pairs,)).tolist()
        head.use(ids)
        hidden = half(1, pairs, D, scale=1)
        found = ours(ids, hidden, start + 9, start, count, head.candidates)
        assert len(found) == count
        allowed = torch.tensor(listed(head.candidates), device=DEVICE)
        for draft, logits in zip(found, follow(ids, hidden, start + 9, start, found), strict=True):
            assert draft in allowed
            assert logits[allowed].max() - logits[draft] < TOLERANCE * logits.std()
        end = start + pairs + count - 1
        keys = (rows_of(each, start, end) for each in (block, twin.block))
        for one, other in zip(*keys, strict=True):
            assert (one - other).norm() < TOLERANCE * other.norm()
        start += pairs


def follower(made):
    """The mathematics of a round whose drafts are given: their logits, by one at a time."""
    w, block = made, reference.stack((made.block,))

    def follow(ids, hidden, position, start, found):
        for draft in found:
            embeds = reference.rows(w.embedding, torch.tensor([ids], device=DEVICE)).bfloat16()
            x = reference.joined(embeds, hidden, w.embedding_norm, w.hidden_norm, w.eps)
            angles = reference.text_angles(position, len(ids), w.frequencies, w.magnitude)
            x = block(reference.linear(x, w.fc), *angles, start, None)
            position, start = position + len(ids), start + len(ids)
            hidden, ids = reference.rms_norm(x[:, -1:], w.norm, w.eps), [draft]
            yield reference.linear(hidden[0, 0], w.head).float()

    return follow


def rows_of(block, start, end):
    """What the memory holds of some tokens, in float32."""
    for rows in (block.mixer.keys, block.mixer.values):
        if isinstance(rows, Int8Rows):
            rows = rows.codes * rows.scale[..., None].float()
        yield rows[:, :, start:end].float()


@pytest.mark.parametrize("part", ["fc", "head", "embedding", "block"])
def test_a_matrix_that_is_not_read_is_left_to_the_drafter(part):
    made, launches = mtp("int8"), Launches.of(DEVICE, {})
    assert drafts.draft_loop(made, launches) is not None
    other = {
        "fc": made.fc.packed.float(),
        "head": tiles.prepare(matrix("int4", VOCABULARY, D)),  # no row of it can be copied
        "embedding": matrix("int4", VOCABULARY, D),
        "block": weights("int4").blocks[1],  # not in tiles
    }
    assert drafts.draft_loop(replace(made, **{part: other[part]}), launches) is None
