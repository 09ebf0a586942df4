"""Turn memory against reading everything anew: the same numbers, and no token twice."""

import random
from itertools import islice, pairwise

import pytest
import torch

from qwen35cli.engine import memory as module
from qwen35cli.engine.archive import fill, tensors_of
from qwen35cli.engine.generate import Step, generate
from qwen35cli.engine.memory import Memory, keys_of, part_of, shared_prefix, stops
from qwen35cli.engine.runner import Prefill, Prompt, Runner
from qwen35cli.engine.sampling import Sampler, Sampling
from qwen35cli.images.preprocess import Patches
from qwen35cli.kernels import select
from qwen35cli.model.draft_head import DraftHead
from tests.tiny import tiny_config, tiny_model

RAW = tiny_config(layers=4)
IMAGE = RAW["image_token_id"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_model(RAW, kernels=select(CPU, "cpu"))


def memory(model, *, drafts=False, capacity=600, chunk=32, kv=torch.bfloat16, cap=2**30):
    head = None
    if drafts:
        rows = model.head.stored()
        head = DraftHead(model.kernels, rows, tokens=500, control=500)
    runner = Runner(model, capacity=capacity, chunk=chunk, kv_dtype=kv, draft_head=head)
    return Memory(runner, cap)


def ids_of(count, seed=0):
    return tuple(random.Random(seed).choices(range(1, 500), k=count))


def picture(h, w, seed=0):
    pixels = torch.randn(h * w, 1536, generator=torch.Generator().manual_seed(seed))
    return Patches(pixels=pixels, grid=(1, h, w), tokens=h * w // 4, size=(16 * w, 16 * h))


def joined(*parts):
    """A prompt of parts, each a tuple of ids or a picture, with a mark after each but the last."""
    ids, images, marks = (), [], []
    for part in parts:
        if isinstance(part, Patches):
            images.append(part)
            part = (497, *[IMAGE] * part.tokens, 498)
        ids += part
        marks.append(len(ids))
    return Prompt(ids, tuple(images), tuple(marks[:-1]), (marks[0],))


def read(memory, prompt):
    """The logits after `prompt`, and how many tokens were read for them."""
    events = list(memory.prefill(prompt))
    return events[-1].logits, events[-1].total - events[-1].start


def afresh(model, prompt, **options):
    return read(memory(model, **options), prompt)[0]


def answered(memory, prompt, count, seed=0):
    """Read `prompt` and generate; the tokens, the last of which is not read."""
    sampler = Sampler(Sampling(seed=seed), 496)
    steps = generate(memory, prompt, sampler, stop=frozenset(), max_tokens=count)
    tokens = [step.token for step in steps if isinstance(step, Step)]
    memory.follow(tokens)
    return tokens


A, B, C, D = (ids_of(n, n) for n in (40, 75, 10, 33))


def test_only_what_is_new_is_read(model):
    kept = memory(model)
    assert read(kept, joined(A, B))[1] == 115
    assert kept.reused == 0
    logits, new = read(kept, joined(A, B, C, D))  # it stopped where this one goes on
    assert (new, kept.reused) == (43, 115)
    assert torch.equal(logits, afresh(model, joined(A, B, C, D)))
    logits, new = read(kept, joined(A, B, D))  # another end: from the mark behind B
    assert new == 33
    assert torch.equal(logits, afresh(model, joined(A, B, D)))
    logits, new = read(kept, joined(A, C))  # from the mark behind A
    assert new == 10
    assert torch.equal(logits, afresh(model, joined(A, C)))
    assert read(kept, joined(C, A))[1] == 50  # nothing is shared


def test_ten_tokens_are_remembered_too(model):
    kept = memory(model)
    read(kept, joined(C, (1,)))
    assert read(kept, joined(C, (2,)))[1] == 1


def test_the_same_prompt_is_read_again_from_its_last_mark(model):
    kept = memory(model)
    first, _ = read(kept, joined(A, B))
    again, new = read(kept, joined(A, B))
    assert new == 75
    assert torch.equal(first, again)


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafting"])
def test_an_answer_is_dropped_and_its_visible_part_read(model, drafts):
    kept = memory(model, drafts=drafts)
    answered(kept, joined(A, (7, 8)), 20)
    assert kept.length == 42 + 19
    logits, new = read(kept, joined(A, D, C))
    assert new == 43
    assert torch.equal(logits, afresh(model, joined(A, D, C), drafts=drafts))


def test_drafting_leaves_the_bits_of_a_short_message_as_they_are(model):
    prompt = joined(A, (3, 1, 4, 1, 5), C[:8], B)  # read at once, as a step is
    assert torch.equal(afresh(model, prompt), afresh(model, prompt, drafts=True))


def test_going_on_after_an_answer_reads_its_last_token_alone(model):
    kept = memory(model)
    tokens = answered(kept, joined(A, B), 20)
    _, new = read(kept, Prompt((*A, *B, *tokens)))
    assert new == 1


def test_stopped_between_chunks_it_goes_on_from_there(model):
    kept = memory(model)
    events = kept.prefill(joined(A, B))
    next(events), next(events), next(events)  # 40 = 32 + 8, then 32 of the 75
    events.close()
    assert kept.length == 72
    logits, new = read(kept, joined(A, B))
    assert new == 115 - 72
    assert torch.equal(logits, afresh(model, joined(A, B)))


def test_stopped_inside_a_picture_it_goes_back_before_it(model):
    kept = memory(model, chunk=8)
    image = picture(12, 8)
    prompt = joined(C, image, D)
    events = kept.prefill(prompt)
    while next(events).done < 20:
        pass
    events.close()
    logits, new = read(kept, prompt)
    assert new == len(prompt.ids) - len(C)
    assert torch.equal(logits, afresh(model, prompt, chunk=8))


def test_pictures_are_told_apart_and_seen_once(model, monkeypatch):
    seen = []
    forward = type(model.visual).forward
    monkeypatch.setattr(
        type(model.visual), "forward", lambda *args: seen.append(1) or forward(*args)
    )
    one, two = picture(4, 8, seed=1), picture(4, 8, seed=2)
    kept = memory(model)
    read(kept, joined(A, one, B))
    assert len(seen) == 1
    logits, new = read(kept, joined(A, two, B))  # as many tokens, another picture
    assert (new, len(seen)) == (10 + 75, 2)
    assert torch.equal(logits, afresh(model, joined(A, two, B)))
    seen.clear()
    logits, new = read(kept, joined(A, two, C, one, D))
    assert (new, len(seen)) == (10 + 10 + 33, 0)
    assert torch.equal(logits, afresh(model, joined(A, two, C, one, D)))


def test_a_failure_leaves_only_what_is_sure(model, monkeypatch):
    kept = memory(model)
    read(kept, joined(A, C))
    forward = type(model.language_model).forward
    calls = []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            forward(*args, **options)  # the caches moved on, and nobody was told
            raise RuntimeError("out of memory")
        return forward(*args, **options)

    monkeypatch.setattr(type(model.language_model), "forward", failing)
    with pytest.raises(RuntimeError):
        read(kept, joined(A, B, C))
    monkeypatch.undo()
    logits, new = read(kept, joined(A, B, C))
    assert new == len(B) + len(C)
    assert torch.equal(logits, afresh(model, joined(A, B, C)))


def test_a_long_message_is_kept_every_stride(model, monkeypatch):
    monkeypatch.setattr(module, "STRIDE", 64)
    kept = memory(model)
    long = ids_of(200, 5)
    read(kept, joined(A, long, C))
    assert [place.length for place in kept.places] == [40, 104, 168, 232, 240]
    changed = (*long[:150], 499, *long[151:])
    logits, new = read(kept, joined(A, changed, C))
    assert new == 250 - 168
    assert torch.equal(logits, afresh(model, joined(A, changed, C)))


def test_a_stride_cuts_no_picture(monkeypatch):
    monkeypatch.setattr(module, "STRIDE", 16)
    prompt = joined(ids_of(5), (*ids_of(10), 497, *[IMAGE] * 24, 498, *ids_of(10)))
    prompt = Prompt(prompt.ids, (picture(12, 8),), prompt.marks)
    keys = keys_of(prompt, IMAGE)
    cuts = [0, *stops(prompt.marks, keys, 0)]
    assert cuts[-1] == len(keys)
    parts = [part_of(prompt, keys, a, b) for a, b in pairwise(cuts)]
    assert sum((part.ids for part in parts), ()) == prompt.ids
    assert [sum(i == IMAGE for i in part.ids) for part in parts if part.images] == [24]


def test_the_oldest_states_go_first_and_some_stay(model):
    kept = memory(model)
    read(kept, joined(A, (1,)))
    one = kept.nbytes
    kept.cap_bytes = 4 * one
    parts = [A]
    for turn in range(12):
        parts += [ids_of(5, 100 + turn), ids_of(6, 200 + turn)]
        prompt = joined(*parts, (9,))
        read(kept, Prompt(prompt.ids, (), prompt.marks, (len(A), prompt.marks[-2])))
        assert kept.nbytes <= 4 * one
    lengths = [place.length for place in kept.places]
    end = len(A) + 12 * 11
    assert lengths[0] == len(A)  # the system prompt's
    assert lengths[-2:] == [end - 6, end]  # and those of the last turn
    assert read(kept, joined(A, (3,)))[1] == 1


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafting"])
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.int8], ids=["bf16", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_turns_equals_reading_afresh(model, drafts, kv, seed):
    """Turns, regenerations, steps back, edits, interruptions and pictures, in any order."""
    choice = random.Random(seed)
    kept = memory(model, drafts=drafts, kv=kv)
    history = [ids_of(choice.randint(1, 40), 1000 + seed)]
    for number in range(25):
        action = choice.choice(["turn", "turn", "again", "undo", "stop", "picture"])
        if action == "undo" and len(history) > 2:
            del history[-choice.choice([1, 2]) :]
        elif action == "again" and len(history) > 1:
            history.pop()
        elif action == "picture":
            history.append(picture(2 * choice.randint(1, 3), 4, seed=choice.randint(0, 2)))
        history.append(ids_of(choice.randint(1, 50), 7 * number + seed))
        if len(joined(*history).ids) > 400:
            history = history[:2]
        prompt = joined(*history, (11, 12))
        if action == "stop":
            events = kept.prefill(prompt)
            for _ in islice(events, choice.randint(1, 3)):
                pass
            events.close()
        before, _ = kept._nearest(keys_of(prompt, IMAGE), logits=True)
        logits, new = read(kept, prompt)
        assert new == len(prompt.ids) - before
        assert torch.equal(logits, afresh(model, prompt, drafts=drafts, kv=kv))
        answered(kept, prompt, choice.randint(1, 9), seed=number)
        assert kept.log[: kept.length] == keys_of(prompt, IMAGE) + kept.log[len(prompt.ids) :]
        assert len(kept.log) == kept.length


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafting"])
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.int8], ids=["bf16", "int8"])
def test_an_archive_brings_everything_back(model, drafts, kv):
    kept = memory(model, drafts=drafts, kv=kv)
    first = joined(A, picture(4, 8), B, C)
    read(kept, first)
    saved = {name: each.clone() for name, each in tensors_of(kept, kept.places).items()}
    other = memory(model, drafts=drafts, kv=kv)
    read(other, joined(D, A))
    assert fill(other, lambda name: saved[name].clone()) == 40 + 10 + 75
    logits, new = read(other, joined(A, picture(4, 8), B, D))
    assert new == 33
    assert torch.equal(logits, afresh(model, joined(A, picture(4, 8), B, D), drafts=drafts, kv=kv))
    logits, new = read(other, joined(A, D))
    assert new == 33
    assert torch.equal(logits, afresh(model, joined(A, D), drafts=drafts, kv=kv))


def test_of_an_archive_only_what_is_shared_is_taken(model):
    kept = memory(model)
    read(kept, joined(A, B, C))
    saved = tensors_of(kept, kept.places)
    other = memory(model)
    wanted = joined(A, D)
    assert fill(other, saved.__getitem__, list(wanted.ids)) == 40
    assert read(other, wanted)[1] == 33
    assert fill(other, saved.__getitem__, [1, 2, 3]) == 0
    assert other.length == 0


def test_of_an_archive_only_what_fits_is_taken(model):
    kept = memory(model)
    read(kept, joined(A, B, C))
    saved = tensors_of(kept, kept.places)
    assert fill(memory(model, capacity=115), saved.__getitem__) == 115
    other = memory(model, capacity=114)
    assert fill(other, saved.__getitem__) == 40
    assert torch.equal(read(other, joined(A, D))[0], afresh(model, joined(A, D)))
    assert fill(memory(model, capacity=39), saved.__getitem__) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.3.keys", torch.zeros(1, 2, 5, 32, dtype=torch.bfloat16)),
        ("layers.3.keys", torch.zeros(1, 2, 115, 32)),
        ("places.0.layers.0.state", torch.zeros(1, 4, 32, 47)),
        ("layers.3.keys", torch.zeros(115, dtype=torch.bfloat16)),
        ("places", torch.tensor([[115, 0, -1, 1], [40, 0, -1, 0]])),
        ("places", torch.tensor([40, 0, -1, 1])),
        ("tokens", torch.tensor(115)),
        ("tokens", torch.zeros(115)),
        ("places.0.hidden", torch.zeros(3)),
        ("places.0.position", torch.zeros(3, 1, dtype=torch.int64)),
    ],
)
@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafting"])
def test_an_archive_of_something_else_is_refused(model, name, value, drafts):
    if name.endswith(("hidden", "position")) and not drafts:
        pytest.skip("nothing drafts")
    kept = memory(model, drafts=drafts)
    read(kept, joined(A, B, C))
    saved = tensors_of(kept, kept.places) | {name: value}
    other = memory(model, drafts=drafts)
    with pytest.raises(ValueError):
        fill(other, saved.__getitem__)
    assert (other.length, other.places, other.log) == (0, [], [])
    assert read(other, joined(A, B))[1] == 115


def test_shared_prefix():
    assert shared_prefix([], [1]) == 0
    for n in range(6):
        a, b = [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]
        if n < 5:
            b[n] = 0
        assert shared_prefix(a, b) == n


def test_progress_says_what_was_there(model):
    kept = memory(model)
    read(kept, joined(A, C))
    events = list(kept.prefill(joined(A, B)))
    assert all(isinstance(event, Prefill) and event.start == 40 for event in events)
    assert [event.done for event in events] == [72, 104, 115]
