"""Quantizing: what is refused and written, and that no end of the process leaves half of it."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from qwen35cli.app import quantize
from qwen35cli.app.inventory import weights
from qwen35cli.app.items import Places
from qwen35cli.app.load import LoadOptions, load, open_model
from qwen35cli.app.quantize import QuantizeOptions, Waiting
from qwen35cli.app.source import Source, resolve
from qwen35cli.checkpoint.manifest import MANIFEST, check_manifest
from qwen35cli.checkpoint.opened import open_checkpoint
from qwen35cli.checkpoint.read import load_weights
from qwen35cli.errors import DoesNotFitError, ModelError, Qwen35Error, UsageError
from qwen35cli.kernels import select
from qwen35cli.model.qwen35 import Qwen35
from qwen35cli.quant.plan import recipe
from tests import killed
from tests.proved import proved
from tests.scripted import environment
from tests.tiny import tiny_config, write_tiny_checkpoint

SMALL = tiny_config(layers=4, vision=False, mtp=False)
REFERENCE = select(torch.device("cpu"), "reference")
COPIED = {"tokenizer.json": "{}", "chat_template.jinja": "x", "LICENSE": "free"}
LEFT = {"notes.txt": "not ours", "train.py": "raise", "pytorch_model.bin": "pickle"}


@pytest.fixture
def source(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "source", SMALL)
    for name, text in (COPIED | LEFT).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


def job(source, target, format="int4"):
    return quantize.job(Source(str(source), source, None), recipe(format), target)


def make(source, target, format="int4", **options):
    return list(quantize.run(job(source, target, format), kernels=REFERENCE, **options))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def beside(target):
    return {path.name for path in target.parent.iterdir()} - {"source"}


# -- the result ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["int4", "int8"])
def test_the_folder_is_complete_and_opens(source, target, format):
    shares = [event.share for event in make(source, target, format)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert set(content(target)) == {"config.json", "model.safetensors", MANIFEST, *COPIED}
    assert proved(target).format == format
    checkpoint = open_checkpoint(target)
    assert checkpoint.format == format
    work = job(source, target, format)
    assert checkpoint.nbytes == work.nbytes
    assert {name: s for name, s in work.schemes.items() if s.kind != "keep"} == checkpoint.schemes
    assert beside(target) == {"out"}


def test_it_is_split_into_shards_where_it_is_large(source, target, monkeypatch):
    monkeypatch.setattr(quantize, "SHARD_BYTES", 100_000)
    make(source, target)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 2
    assert shards < set(proved(target).files)
    assert open_checkpoint(target).nbytes == index["metadata"]["total_size"]


def test_what_is_kept_is_kept_to_the_bit(source, target):
    make(source, target)
    before, after = (open_checkpoint(folder) for folder in (source, target))
    kept = [name for name in before.tensors if name in after.tensors]
    assert len(kept) > 20
    for name in kept:
        one, other = before.tensors[name], after.tensors[name]
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        data = [t.path.read_bytes()[t.offset : t.offset + t.nbytes] for t in (one, other)]
        assert data[0] == data[1]


def test_it_is_made_once(source, target):
    make(source, target)
    before = (target / MANIFEST).stat().st_ino
    assert make(source, target) == []
    assert (target / MANIFEST).stat().st_ino == before
    assert make(source, target, force=True)
    assert (target / MANIFEST).stat().st_ino != before


def test_another_format_replaces_it(source, target):
    make(source, target)
    make(source, target, "int8")
    assert proved(target).format == "int8"
    assert beside(target) == {"out"}


def test_sizes_are_those_of_the_written_file(source, target):
    work = job(source, target)
    make(source, target)
    header = (target / "model.safetensors").read_bytes()[:8]
    size = (target / "model.safetensors").stat().st_size
    assert size == 8 + int.from_bytes(header, "little") + work.nbytes
    assert sum(line.count for line in work.lines()) == len(work.schemes)
    assert work.decode_bytes() < work.decode_bytes(quantized=False) <= work.checkpoint.nbytes


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("source", "lies in the checkpoint that is quantized"),
        ("source/int4", "lies in the checkpoint that is quantized"),
        (".", "contains the checkpoint that is quantized"),
        ("file", "is a file, the result is a folder"),
        ("foreign", "exists, and qwen35 quantize did not write it"),
        ("link", "is a link"),
    ],
)
def test_targets_that_are_not_ours(source, where, message):
    root = source.parent
    (root / "file").write_text("x")
    (root / "foreign").mkdir()
    (root / "foreign" / "thesis.txt").write_text("x")
    (root / "link").symlink_to(root / "foreign")
    with pytest.raises(UsageError, match=message):
        job(source, root / where)
    assert (root / "foreign" / "thesis.txt").read_text() == "x"


def test_an_empty_folder_is_taken(source, target):
    target.mkdir()
    make(source, target)
    assert proved(target)


def prepared(source, tmp_path, **more):
    options = {"model": str(source), "format": "int4", "store": tmp_path / "store"} | more
    return quantize.prepare(QuantizeOptions(**options))


def test_groups_that_do_not_exist(source, tmp_path):
    with pytest.raises(UsageError, match="int4 has no groups of 48 weights"):
        prepared(source, tmp_path, group=48)
    with pytest.raises(UsageError, match="int8 has no groups of weights"):
        prepared(source, tmp_path, format="int8", group=32)


def test_a_quantized_source(source, target, tmp_path):
    make(source, target)
    with pytest.raises(UsageError, match=r"quantized already \(int4\)"):
        prepared(target, tmp_path)


def test_a_plan_file_changes_schemes_and_place(source, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[tensors]\n"*.layers.1.mlp.*" = "int8"\n')
    plain, changed = prepared(source, tmp_path), prepared(source, tmp_path, plan_file=plan)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    assert (str(plain.schemes[name]), str(changed.schemes[name])) == ("int4-g32", "int8")
    assert plain.target.parent == changed.target.parent
    assert plain.target != changed.target


def test_a_disk_without_room(source, target, monkeypatch):
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFitError, match=r"needs 0\.07 GB; the disk has 0\.00 GB free"):
        make(source, target)
    assert not beside(target)


def test_a_tensor_that_cannot_be_meant(source, target):
    stored = open_checkpoint(source).tensors["model.language_model.layers.2.mlp.up_proj.weight"]
    with stored.path.open("r+b") as file:
        file.seek(stored.offset + 2 * (3 * stored.shape[1] + 5))
        file.write(b"\xc0\x7f")  # NaN
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj\.weight\[3, 5\] is nan"):
        make(source, target)
    assert not beside(target)


def test_nothing_from_outside_of_the_source_is_copied(source, target, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (source / "NOTICE").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"NOTICE links to .*secret, outside the checkpoint"):
        job(source, target)


def test_a_source_that_fails_is_not_taken_for_the_target(source, target, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    work = job(source, target)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ModelError, match=r"source/LICENSE cannot be read: Input/output error"):
        list(quantize.run(work, kernels=REFERENCE))
    assert not beside(target)


def test_a_source_that_changes_meanwhile(source, target):
    with pytest.raises(ModelError, match="changed while it was quantized"):
        for event in quantize.run(job(source, target), kernels=REFERENCE):
            if event.share > 0.5:
                (source / "tokenizer.json").write_text("other")
    assert not beside(target)


# -- every way to end ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_a_run_that_is_broken_off_leaves_nothing(source, target, share, error):
    with (
        pytest.raises(error),
        closing(quantize.run(job(source, target), kernels=REFERENCE)) as events,
    ):
        for event in events:
            if event.share >= share:
                raise error
    assert not beside(target)


@pytest.mark.parametrize("old", [None, "int8"])
def test_a_disk_that_fails_at_any_step(source, target, old, monkeypatch):
    left = [0]

    def step():
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(killed, "STEPS", ("fsync", "mkdir", "replace", "rename"))
    for name in (*killed.STEPS, "unlink", "rmdir"):
        monkeypatch.setattr(os, name, getattr(os, name))  # to be put back
    monkeypatch.setattr(killed.TensorStream, "write", killed.TensorStream.write)
    monkeypatch.setattr(quantize, "_exchange", quantize._exchange)
    if old:
        make(source, target, old)
        kept = content(target)
    killed.hook(step)
    failures = 0
    for number in range(1, 1_000):
        left[0] = number
        try:
            make(source, target)
        except DoesNotFitError as error:
            assert str(target) in error.message
            failures += 1
        else:
            if left[0] > 0:  # the end came before that step
                break
        left[0] = 0
        assert beside(target) <= {"out"}
        if target.exists() and proved(target).format == "int4":  # it failed after all was in place
            shutil.rmtree(target)
            if old:
                make(source, target, old)
                kept = content(target)
        else:
            assert (content(target) == kept) if old else not target.exists()
    assert failures > 15
    assert proved(target).format == "int4"


def test_kill_9_at_any_point_leaves_the_old_result_or_none(tmp_path, target):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL)
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(source), str(target)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_what_dead_processes_left_is_removed(source, target):
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = target.with_name(f"out.partial-{dead.pid}")
    alive = target.with_name(f"out.partial-{os.getppid()}")
    other = target.with_name(f"out.partial-{dead.pid}x")
    for folder in (stale, alive, other):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
    make(source, target)
    assert beside(target) == {"out", alive.name, other.name}


def test_systems_that_cannot_exchange_two_folders(source, target, monkeypatch):
    monkeypatch.setattr(quantize, "_exchange", lambda one, other: False)
    make(source, target)
    make(source, target, "int8")
    assert proved(target).format == "int8"
    assert beside(target) == {"out"}


# -- two at once -----------------------------------------------------------------------------------


def test_a_second_run_is_refused_by_name(source, target):
    partial = target.with_name(f"out.partial-{os.getpid()}")
    partial.mkdir()
    with (
        FileLock(target.with_name(".out.lock")),
        pytest.raises(Qwen35Error, match=rf"pid {os.getpid()}\) is quantizing to {target}"),
    ):
        make(source, target)
    assert partial.exists()


def test_who_waits_takes_what_the_other_made(source, target):
    lock = FileLock(target.with_name(".out.lock"))
    lock.acquire()
    events = quantize.run(job(source, target), kernels=REFERENCE, wait=True)
    assert isinstance(next(events), Waiting)
    other = target.with_name("other")
    make(source, other)
    other.rename(target)
    lock.release()
    assert all(isinstance(event, Waiting) for event in events)
    assert proved(target)


# -- answering from it -----------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path):
    """The demo to be run with --quant; and how often that made something."""
    made = []

    def opened(model="demo", **more):
        def make(job):
            made.append(job.plan.format)
            list(quantize.run(job, kernels=REFERENCE))

        store = tmp_path / "store"
        return open_model(LoadOptions(model=model, device="cpu", store=store, **more), make)

    return opened, made


def test_weights_are_made_once_and_kept(options):
    opened, made = options
    for _ in range(2):
        found = opened(quant="int8", ctx=256)
        assert found.source.name == "demo"
        assert found.checkpoint.format == "int8"
    assert made == ["int8"]
    assert load(found).runner.capacity == 256


@pytest.mark.parametrize("quant", [None, "auto", "bf16"])
def test_a_small_checkpoint_runs_as_it_is(options, quant):
    opened, made = options
    assert opened(quant=quant).checkpoint.format == "bf16"
    assert not made


def test_a_large_one_is_quantized_by_default(options, monkeypatch):
    monkeypatch.setattr("qwen35cli.app.stored.SMALL_BYTES", 1_000)
    opened, made = options
    assert opened(quant="auto").checkpoint.format == "int4"
    assert opened(quant="bf16").checkpoint.format == "bf16"
    assert made == ["int4"]


def test_only_the_files_that_hold_its_weights_tell_how_large_it_is(options, tmp_path, monkeypatch):
    monkeypatch.setattr("qwen35cli.app.stored.SMALL_BYTES", 10_000_000)
    opened, made = options
    folder = tmp_path / "copy"
    shutil.copytree(resolve("demo").folder, folder)
    (folder / "consolidated.safetensors").write_bytes(bytes(10_000_000))
    assert opened(str(folder), quant="auto").checkpoint.format == "bf16"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: No such file"):
        opened(str(folder), quant="auto")
    assert not made


def test_a_changed_source_makes_it_stale(options, tmp_path):
    opened, made = options
    folder = tmp_path / "copy"
    shutil.copytree(resolve("demo").folder, folder)
    opened(str(folder), quant="int8")
    (folder / "tokenizer.json").touch()
    opened(str(folder), quant="int8")
    assert made == ["int8", "int8"]


def test_a_damaged_one_in_the_store_is_made_again(options):
    opened, made = options
    path = opened(quant="int8").source.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert opened(quant="int8").checkpoint.format == "int8"
    assert made == ["int8", "int8"]


def test_without_leave_nothing_is_made(tmp_path):
    with pytest.raises(UsageError, match="demo has no int4 weights yet") as caught:
        open_model(LoadOptions(model="demo", quant="int4", store=tmp_path))
    assert caught.value.hint.startswith("qwen35 quantize demo --format int4; -y ")
    assert not list(tmp_path.iterdir())


def test_a_quantized_folder_is_checked_against_its_manifest(source, target):
    make(source, target)
    for quant in (None, "auto", "int4"):
        with pytest.raises(ModelError, match=r"tokenizer\.json"):
            open_model(LoadOptions(model=str(target), device="cpu", quant=quant))
    with pytest.raises(UsageError, match="quantized already, as int4; --quant int8 needs"):
        open_model(LoadOptions(model=str(target), device="cpu", quant="int8"))
    with (target / "chat_template.jinja").open("a") as file:
        file.write("more")
    with pytest.raises(ModelError, match=r"chat_template\.jinja has 5 bytes, .* says 1") as caught:
        open_model(LoadOptions(model=str(target), device="cpu"))
    assert re.search(r"qwen35 quantize .*source --format int4 -o", caught.value.hint)
    (target / MANIFEST).unlink()
    with pytest.raises(ModelError, match="not complete"):
        open_model(LoadOptions(model=str(target), device="cpu"))


def test_the_place_of_a_result_tells_checkpoints_apart(tmp_path):
    one = quantize.place(tmp_path, Source("a/b", Path("/x"), "0123456789abcdef"), recipe("int4"))
    assert one == tmp_path / "quantized" / "a--b-0123456789ab" / "int4-g32"
    two = quantize.place(tmp_path, Source("../b", Path("/y"), None), recipe("int8"))
    assert two.parent.parent == tmp_path / "quantized"
    assert two.name == "int8"
    assert quantize.place(tmp_path, Source("../b", Path("/z"), None), recipe("int8")) != two


@pytest.mark.parametrize("named", [".", "./", "../ft", "./../ft/", "../../here/ft"])
def test_a_folder_has_one_place_by_whatever_path_it_is_named(tmp_path, monkeypatch, named):
    folder = tmp_path / "here" / "ft"
    write_tiny_checkpoint(folder, SMALL)
    monkeypatch.chdir(folder)
    plan = recipe("int4")
    place = quantize.place(tmp_path, resolve(named), plan)
    assert place == quantize.place(tmp_path, resolve(str(folder)), plan)
    assert place.parent.name.startswith("ft-")


def test_the_command_that_makes_it_again_names_the_source_from_anywhere(tmp_path, monkeypatch):
    folder = write_tiny_checkpoint(tmp_path / "here" / "ft", SMALL)
    monkeypatch.chdir(folder.parent)
    target = tmp_path / "out"
    list(quantize.run(quantize.job(resolve("./ft"), recipe("int4"), target), kernels=REFERENCE))
    (target / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        check_manifest(target)
    assert caught.value.hint.startswith(f"qwen35 quantize {folder} --format int4 ")


@pytest.mark.skipif(sys.platform != "linux", reason="names need not be UTF-8")
def test_names_that_are_no_utf_8_are_quantized_and_found_done(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / os.fsdecode(b"m\xff"), SMALL)
    (folder / os.fsdecode(b"LICENSE\xff")).write_text("free")
    target = quantize.place(tmp_path, resolve(str(folder)), recipe("int4"))
    make(folder, target)
    assert os.fsdecode(b"LICENSE\xff") in check_manifest(target).files
    assert quantize.find(tmp_path, resolve(str(folder)), "int4") == target


@pytest.mark.parametrize("name", [".ft", "..ft", "a" * 10 + "." + "b" * 59])
def test_a_place_is_not_hidden(tmp_path, name):
    folder = write_tiny_checkpoint(tmp_path / "here" / name, SMALL)
    target = quantize.place(tmp_path, resolve(str(folder)), recipe("int4"))
    make(folder, target)
    places = Places(data=tmp_path, cache=tmp_path, hub=tmp_path)
    assert [item.path for item in weights(places).items] == [target]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_of_tensors_that_are_not_kept_is_given_back(tmp_path):
    """nf4 has the 8-bit matrices whole in its files: they are encoded, and let go of."""
    folder = write_tiny_checkpoint(tmp_path / "whole", tiny_config(vocab=40_000))
    source = Source(str(folder), folder, None)
    job = quantize.job(source, recipe("nf4"), tmp_path / "nf4")
    list(quantize.run(job))
    checkpoint = open_checkpoint(job.target)
    with torch.device("meta"):
        model = Qwen35(checkpoint.config, select(torch.device("cpu")))
    load_weights(model, checkpoint, torch.device("cpu"))
    embedding = checkpoint.tensors["model.language_model.embed_tokens.weight"].nbytes
    smaps = Path("/proc/self/smaps").read_text()
    of_file = smaps[smaps.index(str(job.target / "model.safetensors")) :]
    resident = int(re.search(r"^Rss: +(\d+) kB", of_file, re.MULTILINE)[1]) * 1_024
    assert embedding > 5_000_000
    assert resident < checkpoint.nbytes - embedding + 100_000
