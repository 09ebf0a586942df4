"""What is on disk: found, named, counted, and removed without harm to anything else."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from qwen35cli.app import quantize
from qwen35cli.app import removal as use_case
from qwen35cli.app.inventory import look
from qwen35cli.app.items import Places
from qwen35cli.app.removal import removal, remove
from qwen35cli.app.sessions import Store
from qwen35cli.app.source import resolve
from qwen35cli.app.transcript import StoredTurn
from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import HubFile, Repo
from qwen35cli.checkpoint.state_file import write_state
from qwen35cli.checkpoint.verified import Known, Notes
from qwen35cli.errors import Qwen35Error, UsageError
from qwen35cli.kernels import select
from qwen35cli.quant.plan import recipe
from tests.hub_cache import ONE, TWO, add, bytes_on_disk, contents
from tests.proved import proved

DEMO = contents(resolve("demo").folder)
QWEN = "Qwen/Qwen3.5-4B"


@pytest.fixture
def places(tmp_path):
    return Places(
        data=tmp_path / "data",
        cache=tmp_path / "cache",
        hub=tmp_path / "hub",
        history=tmp_path / "history",
    )


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    """A data folder with the demo in int8."""
    store = tmp_path_factory.mktemp("quantized")
    source, plan = resolve("demo"), recipe("int8")
    job = quantize.job(source, plan, quantize.place(store, source, plan))
    for _ in quantize.run(job, kernels=select(torch.device("cpu"), "reference")):
        pass
    return store


@pytest.fixture
def weights(quantized, places):
    """The same, to be changed; the folder of the weights."""
    shutil.copytree(quantized, places.data)
    [folder] = (places.data / "quantized").glob("*/int8")
    return folder


def session(places, name=None, **turn):
    with Store(places.data / "sessions") as store:
        made = store.new(QWEN, "int4", name=name)
        turns = (StoredTurn(parts=("Hi.",), answer="Hello.", thinking=False, **turn),)
        return store.save(replace(made, turns=turns)).id


def state(places, name, tokens=7):
    folder = places.cache / "states"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    write_state(path, {"tokens": torch.zeros(tokens, dtype=torch.int64)}, {"quant": "int4"})
    return path


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def names(places):
    return [item.name for item in look(places).items]


def gone(places, *wanted, **more):
    found = look(places)
    planned = removal(found, wanted, **more)
    return planned.freed, [item.name for item in remove(found, planned)]


# -- the shared cache ------------------------------------------------------------------------------


def test_nothing_is_there(places):
    found = look(places)
    assert (found.items, found.nbytes) == ([], 0)
    assert not places.data.exists() and not places.hub.exists()


def test_dense_qwen35_is_found_and_nothing_else(places):
    snapshot = add(places.hub, QWEN, DEMO, ref="main")
    add(places.hub, "google/bert", {"config.json": b'{"architectures": ["BertModel"]}'})
    add(places.hub, "me/data", {"data.csv": b"1,2"})
    add(places.hub, "me/broken", {"config.json": b"{"})
    (places.hub / "datasets--me--x" / "snapshots").mkdir(parents=True)
    (places.hub / "version.txt").write_text("1")
    (snapshot.parent / ".DS_Store").touch()
    [item] = look(places).items
    assert (item.name, item.kind, item.source) == (QWEN, "checkpoint", "Hugging Face")
    assert (item.format, item.ctx, item.fault) == ("bf16", 8_192, "")
    assert (item.path, item.nbytes) == (snapshot, sum(map(len, DEMO.values())))


def test_a_removed_checkpoint_frees_what_it_took(places):
    add(places.hub, QWEN, DEMO, ref="main")
    other = add(places.hub, "google/bert", {"config.json": b'{"architectures": ["BertModel"]}'})
    before = bytes_on_disk(places.hub)
    freed, went = gone(places, QWEN)
    assert went == [QWEN]
    assert before - bytes_on_disk(places.hub) == freed + len(ONE)  # of the ref
    assert not (places.hub / "models--Qwen--Qwen3.5-4B").exists()
    assert other.exists()


def test_revisions_share_files_and_each_can_go_alone(places):
    add(places.hub, QWEN, DEMO, ref="main")
    kept = add(places.hub, QWEN, DEMO | {"LICENSE": b"of the second"}, TWO)
    found = look(places)
    assert [item.name for item in found.items] == [f"{QWEN}@{'a' * 12}", f"{QWEN}@{'b' * 12}"]
    assert found.nbytes == sum(map(len, DEMO.values())) + len(b"of the second")
    with pytest.raises(UsageError, match=f"stands for 2 things: {QWEN}@a{{12}}, {QWEN}@b"):
        found.find(QWEN)
    assert gone(places, f"{QWEN}@{ONE}") == (0, [f"{QWEN}@{'a' * 12}"])
    assert contents(kept)["model.safetensors"] == DEMO["model.safetensors"]
    assert not (places.hub / "models--Qwen--Qwen3.5-4B" / "refs" / "main").exists()
    assert names(places) == [QWEN]


def test_both_revisions_at_once_free_everything(places):
    add(places.hub, QWEN, DEMO)
    add(places.hub, QWEN, DEMO, TWO)
    total = look(places).nbytes
    assert gone(places, f"{QWEN}@{'a' * 12}", f"{QWEN}@{'b' * 12}")[0] == total
    assert bytes_on_disk(places.hub) == 0


def test_a_copy_of_a_repository_has_the_same_commit_and_stays(places):
    for repo in ("a/copy", QWEN, "z/copy"):
        add(places.hub, repo, DEMO)
    gone(places, QWEN)
    assert names(places) == ["a/copy", "z/copy"]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda s: os.truncate(s / "model.safetensors", 5_000_000), "its header describes"),
        (lambda s: os.truncate(s / "model.safetensors", 9), "a header of"),
        (lambda s: (s / "model.safetensors").resolve().unlink(), "1 file is missing"),
        (lambda s: (s / "model.safetensors").unlink(), "has no weights: neither model"),
        (lambda s: _config(s, num_hidden_layers=10**9), "num_hidden_layers is"),
        (lambda s: _config(s, hidden_size="wide"), "hidden_size is 'wide'"),
        (
            lambda s: (s / "config.json").resolve().write_bytes(b"\xff{"),
            "config.json is not usable",
        ),
        (lambda s: (s / "config.json").unlink(), "config.json cannot be read: No such file"),
        (lambda s: _pipe(s / "config.json"), "config.json is no regular file"),
        (lambda s: _pipe(s / "model.safetensors"), "model.safetensors is no regular file"),
        (lambda s: _index(s, x="/y"), "names the file '/y'"),
        (lambda s: _index(s, x="1.safetensors"), "lacks 1 of 1 weight files (1.safetensors)"),
        (lambda s: _index(s, x="model.safetensors"), "disagree: 1 missing (x)"),
    ],
)
def test_what_is_damaged_is_listed_and_can_go(places, damage, fault):
    snapshot = add(places.hub, QWEN, DEMO, ref="main")
    damage(snapshot)
    [item] = (item for item in look(places).items if item.kind == "checkpoint")
    assert item.name == QWEN and fault in item.fault
    gone(places, QWEN)
    assert not (places.hub / "models--Qwen--Qwen3.5-4B").exists()


def _config(snapshot, **text):
    raw = json.loads(DEMO["config.json"])
    raw["text_config"] |= text
    (snapshot / "config.json").resolve().write_text(json.dumps(raw))


def _index(snapshot, **weight_map):
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def test_what_was_verified_and_has_changed_since_is_damaged(places):
    snapshot = add(places.hub, QWEN, DEMO)
    repo, known = Repo(QWEN, places.hub), {}
    for name, data in DEMO.items():
        blob = (snapshot / name).resolve()
        known[name] = Known(HubFile(name, len(data), blob.name, None), blob.stat().st_mtime_ns)
    assert not look(places).items[0].snapshot.is_verified
    verified.write(repo, ONE, Notes(True, known))
    assert look(places).items[0].snapshot.is_verified
    os.utime(snapshot / "tokenizer.json", (1, 1))
    [item] = look(places).items
    assert "has changed since it was verified" in item.fault and not item.snapshot.is_verified
    add(places.hub, QWEN, {"LICENSE": b"x"}, TWO)  # so that the repository stays
    gone(places, f"{QWEN}@{ONE}")
    assert not repo.verified(ONE).exists()


def test_weights_that_others_quantized_say_so(places):
    raw = json.loads(DEMO["config.json"]) | {"quantization_config": {"quant_method": "gptq"}}
    add(places.hub, "me/gptq", DEMO | {"config.json": json.dumps(raw).encode()})
    assert "was written by 'gptq'" in look(places).items[0].fault


def test_one_of_several_revisions_of_a_damaged_repository_goes_alone(places):
    snapshot = add(places.hub, QWEN, DEMO, ref="main")
    kept = add(places.hub, QWEN, DEMO | {"LICENSE": b"of the second"}, TWO)
    (snapshot / "gone").symlink_to("../../blobs/gone")
    assert "1 file is missing (gone)" in look(places).items[0].fault
    assert gone(places, f"{QWEN}@{ONE}")[0] == 0
    assert names(places) == [QWEN]
    assert contents(kept).keys() == DEMO.keys() | {"LICENSE"}


def test_what_a_link_names_outside_the_repository_stays(places, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(DEMO["model.safetensors"])
    snapshot = add(places.hub, QWEN, DEMO | {"LICENSE": b"of the first"})
    kept = add(places.hub, QWEN, DEMO, TWO)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(mine)
    (snapshot / "b.json").symlink_to(kept / "config.json")
    assert f"model.safetensors links to {mine}, outside the cache" in look(places).items[0].fault
    assert gone(places, f"{QWEN}@{ONE}")[0] == len(b"of the first")
    assert mine.exists() and not snapshot.exists()
    assert contents(kept) == DEMO


@pytest.mark.parametrize("part", ["", "blobs", "snapshots"])
def test_a_repository_that_is_a_link_is_left_alone(places, tmp_path, part):
    add(places.hub, QWEN, DEMO)
    path = places.hub / "models--Qwen--Qwen3.5-4B" / part
    (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.move(path, elsewhere / "moved")
    path.symlink_to(elsewhere / "moved")
    before = bytes_on_disk(elsewhere)
    with pytest.raises(Qwen35Error, match=f"{path} is a link to {elsewhere}"):
        removal(look(places), [QWEN])
    assert bytes_on_disk(elsewhere) == before


def test_a_file_that_two_repositories_share_counts_once_and_goes_with_the_last(places):
    xet = "e" * 64
    store = places.hub / "blobs" / "ee" / xet
    store.parent.mkdir(parents=True)
    (places.hub / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    store.write_bytes(DEMO["model.safetensors"])
    links = []
    for repo in ("a/copy", "b/copy"):
        blob = (add(places.hub, repo, DEMO) / "model.safetensors").resolve()
        blob.unlink()
        blob.symlink_to(os.path.relpath(store, blob.parent))
        links.append(f"{blob.relative_to(places.hub)}\n")
    store.with_name(f"{xet}.refs").write_text("".join(links))
    whole, large = sum(map(len, DEMO.values())), store.stat().st_size
    found = look(places)
    assert [item.nbytes for item in found.items] == [whole, whole]
    assert found.nbytes == 2 * whole - large
    assert removal(found, ["a/copy", "b/copy"]).freed == found.nbytes
    assert gone(places, "a/copy")[0] == whole - large
    assert store.exists() and not look(places).items[0].fault
    assert gone(places, "b/copy")[0] == whole
    assert not store.exists()


def test_an_unfinished_download_is_listed_and_goes_alone_or_with_the_rest(places):
    add(places.hub, QWEN, DEMO)
    part = places.hub / "models--Qwen--Qwen3.5-4B" / "blobs" / f"{'c' * 64}.part"
    part.write_bytes(bytes(1_000))
    found = look(places)
    assert [(item.kind, item.name, item.nbytes) for item in found.items][1:] == [
        ("unfinished", f"{QWEN}:unfinished", 1_000)
    ]
    assert gone(places, f"{QWEN}:unfinished") == (1_000, [f"{QWEN}:unfinished"])
    assert names(places) == [QWEN]
    part.write_bytes(bytes(1_000))
    freed, went = gone(places, QWEN)
    assert (freed, went) == (found.nbytes, [QWEN, f"{QWEN}:unfinished"])
    assert bytes_on_disk(places.hub) == 0


def test_only_a_part_was_downloaded(places):
    blobs = places.hub / "models--Qwen--Qwen3.5-4B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'c' * 64}.incomplete").write_bytes(bytes(500))
    assert names(places) == [f"{QWEN}:unfinished"]
    assert gone(places, f"{QWEN}:unfinished")[0] == 500
    assert not blobs.parent.exists()


def test_a_download_that_broke_off_before_there_was_a_snapshot(places):
    blobs = places.hub / "models--me--tune" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'c' * 64}.part").write_bytes(bytes(500))
    assert names(places) == []  # of another model, perhaps
    verified.write(Repo("me/tune", places.hub), ONE, Notes(True, {}))
    assert names(places) == ["me/tune:unfinished"]
    assert gone(places, "me/tune:unfinished")[0] == 500
    assert not blobs.parent.exists()


def test_a_file_that_a_download_completes_meanwhile_stays(places):
    snapshot = add(places.hub, QWEN, DEMO)
    blob = (snapshot / "LICENSE").parents[2] / "blobs" / ("f" * 64)
    blob.write_bytes(b"x")
    found = look(places)
    planned = removal(found, [f"{QWEN}:unfinished"])
    (snapshot / "LICENSE").symlink_to(os.path.relpath(blob, snapshot))
    list(remove(found, planned))
    assert blob.exists()


def test_what_another_program_downloads_stays(places):
    add(places.hub, QWEN, DEMO)
    locks = places.hub / ".locks" / "models--Qwen--Qwen3.5-4B"
    locks.mkdir(parents=True)
    (locks / "old.lock").touch()
    with FileLock(locks / "x.lock"):
        with pytest.raises(Qwen35Error, match=f"another program is downloading {QWEN}"):
            gone(places, QWEN)
        assert names(places) == [QWEN]
    with Repo(QWEN, places.hub).alone():
        with pytest.raises(Qwen35Error, match=f"qwen35 .pid {os.getpid()}. is downloading"):
            gone(places, QWEN)
        assert names(places) == [QWEN]
    gone(places, QWEN)
    assert names(places) == []


def test_what_may_not_be_removed_is_said(places, monkeypatch):
    add(places.hub, QWEN, DEMO)

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("qwen35cli.checkpoint.hub_removal.shutil.rmtree", refuse)
    with pytest.raises(Qwen35Error, match=r"could not remove .*: Permission denied"):
        gone(places, QWEN)
    assert "files are missing" in look(places).items[0].fault


# -- quantized weights -----------------------------------------------------------------------------


def test_quantized_weights(places, weights):
    [item] = look(places).items
    assert (item.name, item.kind, item.source) == ("demo:int8", "quantized", "demo")
    assert (item.format, item.ctx, item.fault, item.path) == ("int8", 8_192, "", weights)
    assert item.nbytes == bytes_on_disk(weights)
    assert gone(places, "demo:int8") == (item.nbytes, ["demo:int8"])
    assert not weights.parent.exists()


def test_two_of_one_name_are_told_apart_by_their_folders(places, weights):
    other = weights.parents[1] / "demo-other" / "int8"
    shutil.copytree(weights, other)
    assert names(places) == [f"{weights.parent.name}/int8", "demo-other/int8"]
    gone(places, "demo-other/int8")
    assert names(places) == ["demo:int8"]
    assert proved(weights)


@pytest.mark.parametrize(
    ("damage", "fault", "name"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 99), "has 99 bytes", "demo:int8"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot be read", "demo:int8"),
        (lambda f: (f / "manifest.json").unlink(), "not complete", "/int8"),
        (lambda f: (f / "manifest.json").write_text('{"version": 1}'), "is damaged", "/int8"),
        (lambda f: (f / "manifest.json").write_text('{"version": 9}'), "has the version", "/int8"),
    ],
)
def test_damaged_weights_are_listed_and_can_go(places, weights, damage, fault, name):
    damage(weights)
    [item] = look(places).items
    assert item.name.endswith(name) and fault in item.fault
    gone(places, item.name)
    assert not weights.exists()


def test_what_a_killed_quantize_left_goes_without_the_whole_one(places, weights):
    left = weights.with_name(f"int8.partial-{dead_pid()}")
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(100))
    found = look(places)
    item = found.items[-1]
    assert (item.kind, item.nbytes, item.pid) == ("unfinished", 100, None)
    assert "ended before it was whole" in item.fault
    assert gone(places, item.name) == (100, [item.name])
    assert proved(weights)
    assert {path.name for path in weights.parent.iterdir()} == {"int8"}


def test_a_pid_that_another_process_has_by_now(places, weights):
    left = weights.with_name(f"int8.partial-{os.getppid()}")
    left.mkdir()
    state = places.cache / "states" / f"x.safetensors.partial-{os.getppid()}"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"x")
    os.utime(state, (1, 1))
    begun = [item for item in look(places).items if item.kind == "unfinished"]
    assert len(begun) == 2
    assert all(item.pid is None and "ended before" in item.fault for item in begun)
    gone(places, *(item.name for item in begun))
    assert not left.exists() and not state.exists() and proved(weights)


def test_weights_whose_source_is_gone_are_not_used(places, weights):
    manifest = json.loads((weights / "manifest.json").read_text())
    manifest["source"] |= {"name": "me/tune", "folder": str(add(places.hub, "me/tune", DEMO))}
    (weights / "manifest.json").write_text(json.dumps(manifest))
    found = look(places)
    assert [item.name for item in found.items if item.is_unused] == []
    planned = removal(found, ["me/tune"])
    assert [item.name for item in planned.unused] == ["me/tune:int8"]
    assert removal(found, ["me/tune", "me/tune:int8"]).unused == []
    list(remove(found, planned))
    assert [item.name for item in look(places).items if item.is_unused] == ["me/tune:int8"]


def test_a_planted_link_among_what_was_begun_is_not_followed(places, weights, tmp_path):
    (mine := tmp_path / "mine").mkdir()
    (mine / "file").touch()
    weights.with_name(f"int8.partial-{dead_pid()}").symlink_to(mine)
    gone(places, "demo:int8")
    assert (mine / "file").exists() and names(places) == []


def test_a_running_quantize_is_left_alone(places, weights):
    left = weights.with_name(f"int8.partial-{os.getppid()}")
    left.mkdir()
    lock = weights.with_name(".int8.lock")
    with FileLock(lock):
        found = look(places)
        assert {item.pid for item in found.items} == {os.getppid()}
        for item in found.items:
            with pytest.raises(Qwen35Error, match=f"by another qwen35 .pid {os.getppid()}"):
                removal(found, [item.name])
    assert left.exists() and proved(weights)


def test_a_quantize_that_began_after_the_look_is_left_alone(places, weights):
    found = look(places)
    planned = removal(found, ["demo:int8"])
    with FileLock(weights.with_name(".int8.lock")):
        with pytest.raises(Qwen35Error, match="another qwen35 is quantizing to"):
            list(remove(found, planned))
        assert proved(weights)


# -- the rest --------------------------------------------------------------------------------------


def test_sessions_and_their_state(places):
    id = session(places, "notes", context_tokens=1_234)
    path = state(places, id)
    state(places, "prompt-0123456789abcdef", 99)
    items = {item.name: item for item in look(places).items}
    assert set(items) == {"notes", "state:notes", "state:prompt-0123456789abcdef"}
    assert (items["notes"].source, items["notes"].format, items["notes"].ctx) == (
        *(QWEN, "int4", 1_234),
    )
    assert (items["state:notes"].source, items["state:notes"].ctx) == ("session notes", 7)
    assert items["state:prompt-0123456789abcdef"].ctx == 99
    freed, went = gone(places, id)
    assert went == ["notes", "state:notes"]
    assert freed == items["notes"].nbytes + items["state:notes"].nbytes
    assert not path.exists()
    assert names(places) == ["state:prompt-0123456789abcdef"]


def test_a_session_that_is_open_stays_with_its_state(places):
    id = session(places, "notes")
    path = state(places, id)
    with Store(places.data / "sessions") as store:
        store.open(id)
        with pytest.raises(UsageError, match="is open in another qwen35"):
            gone(places, "notes")
    assert path.exists() and "notes" in names(places)


def test_saved_state_alone(places, weights):
    one, two = session(places, "one"), session(places)
    state(places, one)
    state(places, two)
    left = places.cache / "states" / f"x.safetensors.partial-{dead_pid()}"
    left.write_bytes(bytes(50))
    writing = places.cache / "states" / f"y.safetensors.partial-{os.getpid()}"
    writing.write_bytes(bytes(50))
    assert gone(places, "one", cache_only=True)[1] == ["state:one"]
    with pytest.raises(UsageError, match="one has no saved state"):
        gone(places, "one", cache_only=True)
    with pytest.raises(UsageError, match="demo:int8 has no saved state"):
        gone(places, "demo:int8", cache_only=True)
    freed, went = gone(places, cache_only=True)
    assert went == [f"state:{two}", f"states/{left.name}"]
    assert freed > 50 and not left.exists() and writing.exists()
    assert set(names(places)) == {"demo:int8", "one", two, f"states/{writing.name}"}
    assert gone(places, cache_only=True) == (0, [])


def test_damaged_state_and_sessions(places):
    id = session(places)
    (places.data / "sessions" / id / "session.json").write_text("{")
    path = state(places, "prompt-1")
    os.truncate(path, path.stat().st_size - 1)
    (path.parent / "prompt-2.safetensors").write_bytes(b"x")
    faults = {item.name: item.fault for item in look(places).items}
    assert set(faults) == {id, "state:prompt-1", "state:prompt-2"}
    assert all(faults.values())
    gone(places, *faults)
    assert names(places) == []


def test_kernels_launches_and_history(places):
    kernels = places.cache / "triton" / "sm_90-NVIDIA-H200-cuda12.8-triton3.6.0"
    (kernels / "ab").mkdir(parents=True)
    (kernels / "ab" / "x.cubin").write_bytes(bytes(300))
    (places.cache / "launches.json").write_text('{"sm_90": {}}')
    places.history.write_bytes(bytes(20))
    assert [(item.name, item.nbytes, bool(item.fault)) for item in look(places).items] == [
        (f"kernels:{kernels.name}", 300, False),
        ("launches", 13, False),
        ("history", 20, False),
    ]
    (places.cache / "launches.json").write_text("{")
    assert look(places).items[1].fault
    gone(places, f"kernels:{kernels.name}", "launches", "history")
    assert names(places) == []
    assert not kernels.exists() and not places.history.exists()


def test_the_history_that_is_written_to_stays(places, monkeypatch):
    monkeypatch.setattr(use_case, "HISTORY_S", 0.05)
    places.history.write_bytes(bytes(20))
    with (
        FileLock(places.history.with_name(".history.lock")),
        pytest.raises(Qwen35Error, match="another qwen35 holds"),
    ):
        gone(places, "history")
    assert places.history.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nots", "did you mean notes?"), ("demo", "what can go"), ("", "lists"), ("/etc", "lists")],
)
def test_an_unknown_name(places, name, hint):
    session(places, "notes")
    with pytest.raises(UsageError) as refusal:
        gone(places, name)
    assert hint in refusal.value.hint
    assert names(places) == ["notes"]


def test_what_the_list_calls_so_is_meant(places):
    id = session(places, "history")
    places.history.write_bytes(b"x")
    assert set(names(places)) == {id, "history"}
    gone(places, "history")
    assert names(places) == ["history"] and not places.history.exists()


def test_one_unknown_name_and_nothing_goes(places):
    session(places, "notes")
    with pytest.raises(UsageError):
        gone(places, "notes", "more")
    assert names(places) == ["notes"]


def test_links_in_our_folders_are_not_followed(places, weights, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(weights, elsewhere)
    weights.symlink_to(elsewhere)
    (places.cache / "triton").mkdir(parents=True)
    (places.cache / "triton" / "x").symlink_to(elsewhere)
    assert names(places) == []


def test_a_folder_that_cannot_be_read_is_an_error(places):
    places.hub.parent.mkdir(parents=True, exist_ok=True)
    places.hub.write_text("no folder")
    with pytest.raises(Qwen35Error, match=f"could not read {places.hub}"):
        look(places)
