"""The shortlist of the output head: the best of its ids, whatever the format."""

import pytest
import torch

from qwen35cli.kernels import reference, select
from qwen35cli.kernels.operands import NF4, Int4, Int8
from qwen35cli.model import draft_head
from qwen35cli.model.draft_head import DraftHead, Shortlist

V, D = 320, 64  # the last 12 rows are padding
TOKENS, CONTROL, COMMON = 308, 300, 100
ROWS = {
    "bf16": lambda w, kernels: w.bfloat16(),
    "int8": lambda w, kernels: Int8(*kernels.quantize_int8(w), tuple(w.shape)),
    "int4": lambda w, kernels: Int4(*kernels.quantize_int4(w, 32), tuple(w.shape), 32),
}


def head(kind, kernels):
    torch.manual_seed(0)
    w = torch.randn(V, D)
    if kind == "nf4":
        packed, absmax = kernels.quantize_nf4(w, 64)
        table = torch.tensor(reference.NF4_TABLE)
        return NF4(packed.reshape(-1, 1), absmax, table, (V, D), 64)
    return ROWS[kind](w, kernels)


def shortlist(weight, kernels):
    return DraftHead(kernels, weight, tokens=TOKENS, control=CONTROL, common=COMMON)


def best(weight, kernels, x, ids):
    ids = torch.tensor(sorted(ids))
    logits = kernels.linear(x[None], kernels.prepare(weight), None)[0]
    return int(ids[logits[ids].argmax()])


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_best_of_the_shortlist_is_found(kind, backend):
    kernels = select(torch.device("cpu"), backend)
    weight = head(kind, kernels)
    draft = shortlist(weight, kernels)
    allowed = {*range(COMMON), *range(CONTROL, TOKENS)}
    hidden = torch.randn(60, D)
    for x in hidden:
        assert draft.likeliest(x) == best(weight, kernels, x, allowed)
    draft.use([150, 7, 299, 150, 305])
    draft.use([210])
    found = {draft.likeliest(x) for x in hidden}
    for x in hidden:
        assert draft.likeliest(x) == best(weight, kernels, x, allowed | {150, 299, 210})
    assert found & {150, 299, 210}  # they count
    assert found & set(range(CONTROL, TOKENS))
    draft.clear()
    for x in hidden:
        assert draft.likeliest(x) == best(weight, kernels, x, allowed)


def test_a_head_in_nf4_is_read_as_a_whole():
    kernels = select(torch.device("cpu"), "cpu")
    weight = head("nf4", kernels)
    draft = shortlist(weight, kernels)
    draft.use([150])
    for x in torch.randn(30, D):
        assert draft.likeliest(x) == best(weight, kernels, x, range(TOKENS))


def test_what_a_conversation_uses_has_a_limit(monkeypatch):
    monkeypatch.setattr(draft_head, "USED", 5)
    monkeypatch.setattr(draft_head, "FEWEST", 100)
    kernels = select(torch.device("cpu"), "reference")
    weight = head("int8", kernels)
    draft = shortlist(weight, kernels)
    draft.use(range(200, 210))
    allowed = {*range(COMMON), *range(CONTROL, TOKENS), *range(200, 205)}
    for x in torch.randn(60, D):
        assert draft.likeliest(x) == best(weight, kernels, x, allowed)


@pytest.mark.parametrize("kind", ROWS)
def test_a_block_that_is_used_much_joins(kind, monkeypatch):
    monkeypatch.setattr(draft_head, "BLOCK", 40)
    kernels = select(torch.device("cpu"), "cpu")
    weight = head(kind, kernels)
    draft = shortlist(weight, kernels)
    draft.use([*range(10), *[270] * 8])  # the last block, cut short by the control tokens
    allowed = {*range(COMMON), *range(260, TOKENS)}
    hidden = torch.randn(60, D)
    assert {draft.likeliest(x) for x in hidden} & set(range(260, 300))
    for x in hidden:
        assert draft.likeliest(x) == best(weight, kernels, x, allowed)


def test_a_block_joins_by_its_share_of_the_conversation():
    shortlist = Shortlist(65_536, 248_044)
    shortlist.use([100_000] * 7)
    assert shortlist.blocks == []
    shortlist.use([100_001])
    assert shortlist.blocks == [(98_304, 114_688)]
    assert 98_304 in shortlist and 114_688 not in shortlist
    shortlist.use([5] * 792)  # 8 of 800
    assert shortlist.blocks == [(98_304, 114_688)]
    shortlist.use([5])
    assert shortlist.blocks == []
    assert 100_000 in shortlist and 100_002 not in shortlist
    shortlist.use([100_000] * 8)
    assert shortlist.blocks == []  # 16 of 809
    shortlist.use([100_000])
    assert shortlist.blocks == [(98_304, 114_688)]
    shortlist.use([248_043] * 20)
    assert shortlist.blocks == [(98_304, 114_688), (245_760, 248_044)]
    shortlist.clear()
    assert shortlist.blocks == [] and 100_000 not in shortlist


def test_padding_is_never_drafted():
    kernels = select(torch.device("cpu"), "reference")
    weight = head("bf16", kernels)
    x = weight[310].float()
    assert int((weight.float() @ x).argmax()) == 310
    assert shortlist(weight, kernels).likeliest(x) < TOKENS
    whole = DraftHead(kernels, weight, tokens=TOKENS, control=CONTROL, common=1_000)
    assert whole.likeliest(x) == best(weight, kernels, x, range(TOKENS))
