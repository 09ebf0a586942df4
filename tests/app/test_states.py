"""Saved state with the demo: found by what a prompt shares with it, refused where it differs."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from qwen35cli.app import load as loading
from qwen35cli.app.conversation import Conversation
from qwen35cli.app.load import LoadOptions
from qwen35cli.app.question import Question
from qwen35cli.app.states import States, chosen, fingerprint
from qwen35cli.checkpoint.state_file import write_state
from qwen35cli.engine.memory import Place
from qwen35cli.errors import Qwen35Error
from tests.tiny import write_tiny_checkpoint

TEXT = "The code word is sunflower. " * 60 + "\n\n"


def opened(ctx=1_024, **more):
    return loading.open_model(LoadOptions(model="demo", ctx=ctx, mtp="auto", **more))


@pytest.fixture(scope="module")
def loaded():
    return loading.load(opened())


@pytest.fixture
def states(tmp_path, loaded):
    return States(tmp_path / "states", loaded.opened)


def prompt(loaded, *parts):
    return Conversation(loaded.opened, system=None, thinking=False).prompt(Question(parts))


def read(loaded, prompt):
    *_, last = loaded.memory.prefill(prompt)
    return last.logits, last.total - last.start


def saved(states, loaded, *parts):
    """Read a prompt, save what was read, forget it; the logits and the tokens."""
    loaded.memory.forget()
    logits, tokens = read(loaded, prompt(loaded, *parts))
    assert states.save_prompt(loaded.memory) > (0, 0)
    loaded.memory.forget()
    return logits, tokens


def test_a_second_question_about_a_text_reads_only_itself(states, loaded):
    _, tokens = saved(states, loaded, TEXT, "What is the code word?")
    assert tokens > 300
    other = prompt(loaded, TEXT, "How often is it said?")
    found = states.find(other)
    assert found is not None
    assert states.load(found, loaded, other) == found.tokens
    logits, new = read(loaded, other)
    assert new == len(other.ids) - found.tokens < 40
    loaded.memory.forget()
    assert torch.equal(logits, read(loaded, other)[0])


def test_the_same_question_again_reads_the_opening_alone(states, loaded):
    logits, _ = saved(states, loaded, TEXT, "What is the code word?")
    again = prompt(loaded, TEXT, "What is the code word?")
    states.load(states.find(again), loaded, again)
    restored, new = read(loaded, again)
    assert new <= 6
    assert torch.equal(restored, logits)


def test_the_longest_beginning_is_found(states, loaded):
    saved(states, loaded, TEXT, "What is the code word?")
    more = TEXT + "And a line that the first text has not. " * 9 + "\n\n"
    saved(states, loaded, more, "What is the code word?")
    assert len(list(states.folder.iterdir())) == 1  # it begins alike, and replaced the shorter
    saved(states, loaded, "x " * 300, "Anything")
    wanted = prompt(loaded, more, "And now?")
    found = states.find(wanted)
    assert len(wanted.ids) - found.tokens < 40
    assert states.find(prompt(loaded, "Hello")) is None


def test_little_is_not_worth_a_file(states, loaded):
    loaded.memory.forget()
    read(loaded, prompt(loaded, "Hello"))
    assert states.save_prompt(loaded.memory) == (0, 0)
    assert not states.folder.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv": "int8"}, "saved with int8 KV, now bf16"),
        ({"quant": "int4"}, "saved with int4 weights, now bf16"),
        ({"model": "0123"}, "saved of other weights"),
        ({"program": "0"}, "saved by another version of qwen35"),
        ({"images": "x"}, "saved with pictures cut otherwise"),
        ({"numbers": "bfloat16"}, "saved with bfloat16 activations, now float32"),
    ],
)
def test_a_difference_is_named(states, loaded, change, said):
    right = dict(states.fingerprint)
    states.fingerprint.update(change)
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    states.save(loaded.memory, "20261126-0000-aaaa")
    states.fingerprint.update(right)
    assert states.find(prompt(loaded, TEXT, "q")) is None
    assert states.load_session("20261126-0000-aaaa", loaded) == 0
    assert states.problem == said
    assert states.of_session("20261126-0000-aaaa").exists()  # of use to who runs it so again


def test_every_setting_that_matters_is_in_the_fingerprint():
    one = fingerprint(opened())
    assert one == fingerprint(opened())
    assert fingerprint(opened(kv_dtype="int8")) != one
    assert fingerprint(opened(image_max_tokens=16)) != one
    assert fingerprint(replace(opened(), image_limits=None)) != one


def test_weights_of_the_same_sizes_and_times_are_told_apart(tmp_path, loaded):
    found = []
    for seed in (0, 1):
        folder = write_tiny_checkpoint(tmp_path / str(seed), seed=seed)
        for path in folder.iterdir():
            os.utime(path, (1, 1))
        source = replace(loaded.opened.source, folder=folder)
        one = fingerprint(replace(loaded.opened, source=source))
        assert one == fingerprint(replace(loaded.opened, source=source))
        found.append(one)
    assert found[0] != found[1]


@pytest.mark.parametrize("damage", ["cut", "flip", "nonsense"])
def test_what_is_damaged_is_said_removed_and_read_again(states, loaded, damage):
    logits, _ = saved(states, loaded, TEXT, "What is it?")
    [path] = states.folder.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-500:]
    elif damage == "flip":
        data[-5_000] ^= 8
    else:
        data = b"nonsense"
    path.write_bytes(data)
    wanted = prompt(loaded, TEXT, "What is it?")
    found = states.find(wanted)
    if found is not None:
        assert states.load(found, loaded, wanted) == 0
    assert states.problem == "the saved state was damaged and is removed"
    assert not path.exists()
    again, new = read(loaded, wanted)
    assert new == len(wanted.ids)
    assert torch.equal(again, logits)


@pytest.mark.parametrize("tokens", [torch.tensor(3), torch.zeros(3), torch.zeros(3, 3)])
def test_tensors_of_another_kind_are_damage_too(states, loaded, tokens):
    states.folder.mkdir()
    path = states.of_session("other")
    write_state(
        path, {"tokens": tokens, "places": torch.tensor([[3, 0, -1, 1]])}, states.fingerprint
    )
    assert states.find(prompt(loaded, TEXT, "What is it?")) is None
    assert states.problem == "the saved state was damaged and is removed"
    assert not path.exists()


def test_a_smaller_context_takes_what_fits_and_leaves_the_file(states, loaded):
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    whole = states.save(loaded.memory, "long")
    small = loading.load(opened(ctx=loaded.memory.places[-1].length - 1))
    other = States(states.folder, small.opened)
    assert other.load_session("long", small) == loaded.memory.places[-2].length
    assert other.problem is None
    assert other.save(small.memory, "long") == whole
    assert loaded.memory.places[-1].length == whole[0]
    loaded.memory.forget()
    assert states.load_session("long", loaded) == whole[0]


def test_what_was_read_of_one_session_is_not_saved_as_that_of_another(states, loaded):
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    assert states.load_session("other", loaded) == 0
    assert states.save(loaded.memory, "other") == (0, 0)


def test_what_differs_from_the_file_takes_its_place(states, loaded):
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    states.save(loaded.memory, "long")
    *_, before, _ = loaded.memory.places
    read(loaded, prompt(loaded, TEXT, "another, and longer"))
    whole = states.save(loaded.memory, "long")
    loaded.memory.forget()
    assert states.load_session("long", loaded) == whole[0] > before.length


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_cannot_be_read_now_is_said_and_stays(states, loaded, monkeypatch, code):
    saved(states, loaded, TEXT, "What is it?")
    [path] = states.folder.iterdir()
    wanted = prompt(loaded, TEXT, "What is it?")
    said = f"the saved state {path} cannot be read ({os.strerror(code)})"

    def failing(*args, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        assert states.find(wanted) is None
    assert (states.problem, path.exists()) == (said, True)

    states.problem = None
    found = states.find(wanted)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", failing)
        assert states.load(found, loaded, wanted) == 0
    assert (states.problem, path.exists()) == (said, True)
    assert states.load(found, loaded, wanted) == found.tokens


def test_what_another_program_saves_meanwhile_is_another_file(states, loaded):
    logits, _ = saved(states, loaded, TEXT, "What is it?")
    wanted = prompt(loaded, TEXT, "What is it?")
    found = states.find(wanted)
    longer = TEXT + "And a line that the first text has not. " * 9 + "\n\n"
    saved(States(states.folder, loaded.opened), loaded, longer, "What is it?")
    [path] = states.folder.iterdir()
    assert states.load(found, loaded, wanted) == found.tokens
    assert torch.equal(read(loaded, wanted)[0], logits)
    assert (states.problem, path.exists()) == (None, True)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_opened(states, loaded, make):
    states.folder.mkdir()
    make(states.folder / "other.safetensors")
    assert states.find(prompt(loaded, TEXT, "What is it?")) is None
    assert states.load_session("other", loaded) == 0
    assert states.problem is None


def test_the_least_used_files_go_first(tmp_path, loaded):
    states = States(tmp_path / "states", loaded.opened, cap_bytes=10**9)
    size = 0
    for number in range(4):
        loaded.memory.forget()
        read(loaded, prompt(loaded, f"{number} " + TEXT, "q"))
        _, size = states.save(loaded.memory, f"s{number}")
        os.utime(states.of_session(f"s{number}"), (number, number))
    states.cap_bytes = 3 * size + size // 2
    os.utime(states.of_session("s0"), (99, 99))  # used again
    states.save(loaded.memory, "s4")
    assert {path.stem for path in states.folder.iterdir()} == {"s0", "s3", "s4"}


def test_what_killed_processes_left_goes_when_another_saves(states, loaded):
    states.folder.mkdir()
    left, writing = (states.folder / f"{i}.safetensors.partial-{i}" for i in (1, 2))
    for path in (left, writing):
        path.write_bytes(bytes(50))
    os.utime(left, (1, 1))
    saved(states, loaded, TEXT, "q")
    assert (left.exists(), writing.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(tmp_path, loaded):
    (tmp_path / "file").write_text("")
    states = States(tmp_path / "file" / "states", loaded.opened)
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    with pytest.raises(Qwen35Error, match="could not be saved in"):
        states.save_prompt(loaded.memory)


def test_the_newest_places_and_the_first_are_chosen(loaded):
    loaded.memory.forget()
    read(loaded, prompt(loaded, TEXT, "q"))
    one = loaded.memory.places[0].state
    places = [Place(one, kept=False) for _ in range(5)]
    assert chosen(places, 3 * one.nbytes) == [places[0], *places[3:]]
    assert chosen(places, 0) == [places[0], places[4]]
    assert chosen([], 1) == []
