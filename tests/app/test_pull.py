"""A checkpoint comes into the shared cache as a whole, from a real server that misbehaves."""

import hashlib
import json
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwen35cli.app import fetch, pull, stored, verify
from qwen35cli.app.source import resolve
from qwen35cli.checkpoint import listing, verified
from qwen35cli.checkpoint.hub import InUse, NotInCache, Repo
from qwen35cli.checkpoint.pinned import COMMITS, DEFAULT_REPO, FILES
from qwen35cli.checkpoint.remote import Patience
from qwen35cli.errors import DoesNotFitError, ModelError, Qwen35Error, UsageError
from tests.hub_server import COMMIT, REPO, etag, point_at, serving
from tests.tiny import tiny_config

QUICK = Patience(connect_s=2.0, stall_s=10.0, tries=3, first_wait_s=0.01, progress_bytes=4096)
FILES_OF_IT = {
    "config.json": json.dumps(tiny_config(layers=4)).encode(),
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}" * 9_000,
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
OTHERS = {
    "README.md": b"# Read me",
    "model.py": b"print('run me')",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"in a folder",
    ".gitattributes": b"",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(FILES_OF_IT | OTHERS) as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "models--owner--name"


def returned(work):
    """All that a generator gives, and its result."""
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


@pytest.fixture
def prepared(tmp_path):
    def call(model=REPO, **more):
        options = pull.PullOptions(
            model=model, store=tmp_path / "store", patience=QUICK, **({"quant": "bf16"} | more)
        )
        return returned(pull.prepare(options))[1]

    return call


@pytest.fixture
def pulled(prepared):
    """Pull; the events and the folder."""

    def call(**more):
        job = prepared(**more)
        return [*fetch.run(job)], job.folder

    return call


def texts(events):
    return [event.text for event in events if isinstance(event, pull.Trouble)]


def fetched(events):
    return sum(event.fetched for event in events if isinstance(event, fetch.Finished))


# -- the cache -------------------------------------------------------------------------------------


def test_the_layout_is_that_of_hugging_face(hub, pulled, cache):
    events, folder = pulled()
    assert folder == cache / "snapshots" / COMMIT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES_OF_IT
    for name, data in FILES_OF_IT.items():
        assert str((folder / name).readlink()) == f"../../blobs/{etag(name, data)}"
    assert {path.name for path in (cache / "blobs").iterdir()} == {
        etag(name, data) for name, data in FILES_OF_IT.items()
    }
    assert (cache / "refs" / "main").read_text() == COMMIT
    assert fetched(events) == sum(map(len, FILES_OF_IT.values()))


def test_hugging_faces_own_tools_find_it(hub, pulled, tmp_path):
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

    _, folder = pulled()
    found = try_to_load_from_cache(REPO, "model.safetensors", cache_dir=tmp_path / "cache")
    assert found == str(folder / "model.safetensors")
    offline = snapshot_download(REPO, cache_dir=tmp_path / "cache", local_files_only=True)
    assert offline == str(folder)
    scanned = scan_cache_dir(tmp_path / "cache")
    assert not scanned.warnings
    [repo] = scanned.repos
    assert (repo.repo_id, repo.size_on_disk) == (REPO, sum(map(len, FILES_OF_IT.values())))
    [revision] = repo.revisions
    assert revision.refs == {"main"}


def test_only_what_makes_a_checkpoint_comes(hub, pulled):
    pulled()
    for name in OTHERS:
        assert not hub.gets(f"/{name}")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *((name, True) for name in FILES[COMMITS[DEFAULT_REPO]]),
        *(("generation_config.json", True), ("model-00001-of-00002.safetensors", True)),
        *(
            ("modeling_qwen.py", False),
            ("pytorch_model.bin", False),
            ("adapter.safetensors", False),
        ),
        *(("../config.json", False), ("a/config.json", False), ("a\\tokenizer.json", False)),
        *(("/etc/tokenizer.json", False), ("model\n.safetensors", False), ("README.md", False)),
    ],
)
def test_the_allow_list(name, wanted):
    assert listing.is_wanted(name) is wanted


def test_config_json_comes_first_and_appears_last(hub, prepared, cache):
    job = prepared()
    assert job.files[0].name == "config.json"
    work = fetch.run(job)
    for _ in work:
        assert not (cache / "snapshots" / COMMIT / "config.json").exists() or job.is_done
    with pytest.raises(NotInCache):
        resolve("owner/other")
    assert resolve(REPO).revision == COMMIT


def test_a_second_pull_asks_nobody(hub, pulled):
    pulled(revision=COMMIT)
    hub.asked.clear()
    events, _ = pulled(revision=COMMIT)
    assert (hub.asked, fetched(events)) == ([], 0)


def test_a_branch_is_asked_for_again(hub, pulled, cache):
    pulled()
    newer = "b" * 40
    hub.repos[REPO][newer] = {**hub.files, "tokenizer_config.json": b'{"new": 1}'}
    hub.branches["main"] = newer
    events, folder = pulled()
    assert folder.name == newer
    assert fetched(events) == len(b'{"new": 1}')
    assert (cache / "refs" / "main").read_text() == newer
    assert resolve(REPO).revision == newer


def test_a_branch_that_moves_to_what_is_here_is_noted(hub, pulled, cache):
    pulled()
    hub.branches["next"] = COMMIT
    events, _ = pulled(revision="next")
    assert events == []
    assert (cache / "refs" / "next").read_text() == COMMIT


def test_what_cannot_be_noted_is_said(hub, pulled, monkeypatch):
    def refuse(*arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(verified, "write", refuse)
    events, folder = pulled()
    [said] = texts(events)
    assert said.endswith("read again at the next pull: Read-only file system")
    assert (folder / "config.json").is_file()


def test_a_listing_comes_in_pages(hub, pulled):
    hub.page = 3
    _, folder = pulled()
    assert len([*folder.iterdir()]) == len(FILES_OF_IT)
    assert len(hub.gets("/tree/")) == 4


def test_without_links_the_files_themselves_are_there_once(hub, pulled, cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    _, folder = pulled(revision=COMMIT)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert not [*(cache / "blobs").iterdir()]
    hub.asked.clear()
    assert fetched(pulled(revision=COMMIT)[0]) == 0
    assert not hub.asked


def test_without_links_what_an_earlier_run_left_is_not_stored_twice(
    hub, pulled, cache, monkeypatch
):
    from huggingface_hub import constants

    (cache / "blobs").mkdir(parents=True)
    blob = cache / "blobs" / etag("model.safetensors", FILES_OF_IT["model.safetensors"])
    blob.write_bytes(FILES_OF_IT["model.safetensors"])
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    _, folder = pulled()
    assert not blob.exists()
    assert (folder / "model.safetensors").read_bytes() == FILES_OF_IT["model.safetensors"]


def test_without_links_a_blob_of_another_snapshot_is_copied(hub, pulled, cache, monkeypatch):
    from huggingface_hub import constants

    _, first = pulled()
    newer = "b" * 40
    hub.repos[REPO][newer] = dict(hub.files)
    hub.branches["main"] = newer
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    _, folder = pulled()
    assert folder.name == newer
    for each in (first, folder):
        assert (each / "model.safetensors").read_bytes() == FILES_OF_IT["model.safetensors"]


def in_shared_store(cache, name):
    """Put a blob where newer programs keep it once for all repositories."""
    blob = cache / "blobs" / etag(name, FILES_OF_IT[name])
    store = cache.parent / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    return store


def test_a_blob_that_repositories_share_is_known_and_kept(hub, pulled, cache, request):
    _, folder = pulled()
    store = in_shared_store(cache, "model.safetensors")
    shutil.rmtree(cache / "qwen35")
    request.getfixturevalue("no_socket")
    events, again = pulled(offline=True)
    assert (again, texts(events)) == (folder, [])
    assert verified.is_verified(Repo.of(REPO), COMMIT)
    assert store.is_file()


def test_a_wrong_blob_that_repositories_share_is_replaced_here(hub, pulled, cache):
    _, folder = pulled()
    store = in_shared_store(cache, "model.safetensors")
    shutil.rmtree(cache / "qwen35")
    store.write_bytes(b"!" * store.stat().st_size)
    pulled()
    assert (folder / "model.safetensors").read_bytes() == FILES_OF_IT["model.safetensors"]
    assert store.is_file()


def test_what_others_fetched_is_hashed_and_kept(hub, pulled, tmp_path):
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache")
    hub.asked.clear()
    events, _ = pulled()
    assert not hub.gets("/xet/" + etag("model.safetensors", FILES_OF_IT["model.safetensors"]))
    assert any(isinstance(event, fetch.Moving) and event.checking for event in events)


def test_what_others_left_wrong_is_replaced(hub, pulled, cache):
    blob = cache / "blobs" / etag("model.safetensors", FILES_OF_IT["model.safetensors"])
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * len(FILES_OF_IT["model.safetensors"]))
    events, folder = pulled()
    assert "is wrong and is fetched again" in texts(events)[0]
    assert (folder / "model.safetensors").read_bytes() == FILES_OF_IT["model.safetensors"]


def test_a_half_file_of_another_program_is_replaced(hub, pulled, cache):
    blob = cache / "blobs" / etag("model.safetensors", FILES_OF_IT["model.safetensors"])
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 100)
    events, _ = pulled()
    assert "it has 100 bytes, published are" in texts(events)[0]


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_later_run_goes_on_from_there(hub, pulled, cache):
    weights = etag("model.safetensors", FILES_OF_IT["model.safetensors"])
    hub.fail(f"storage:/xet/{weights}", after=50_000, times=1)
    hub.fail(f"storage:/xet/{weights}", status=500, times=99)
    with pytest.raises(ModelError, match=r"stopped at 50,000 of 102,400 bytes"):
        pulled()
    assert (cache / "blobs" / f"{weights}.part").stat().st_size == 50_000
    hub.faults.clear()
    hub.asked.clear()
    events, folder = pulled()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES_OF_IT
    assert not [*(cache / "blobs").glob("*.part*")]
    assert fetched(events) == 52_400
    assert hub.gets("/xet/")[0].headers["range"] == "bytes=50000-"


def test_wrong_bytes_twice_leave_no_snapshot(hub, pulled, cache):
    hub.fail("storage:", change=lambda data: b"!" + data[1:], times=2)
    with pytest.raises(ModelError, match="wrong content twice") as refusal:
        pulled()
    assert refusal.value.exit_code == 3
    assert not (cache / "snapshots" / COMMIT).exists()
    with pytest.raises(NotInCache):
        resolve(REPO)


def test_another_model_is_refused_before_its_weights_come(hub, pulled):
    hub.files["config.json"] = b'{"architectures": ["Qwen3ForCausalLM"]}'
    with pytest.raises(ModelError, match="is a Qwen3ForCausalLM model"):
        pulled()
    assert not hub.gets("/xet/")


def test_weights_in_a_format_of_others_are_refused_before_they_come(hub, pulled):
    raw = json.loads(hub.files["config.json"])
    raw["quantization_config"] = {"quant_method": "awq", "bits": 4}
    hub.files["config.json"] = json.dumps(raw).encode()
    with pytest.raises(ModelError, match="awq"):
        pulled()
    assert not hub.gets("/xet/")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_without_a_checkpoint_is_refused(hub, pulled, name):
    del hub.files[name]
    with pytest.raises(ModelError, match="holds no checkpoint in safetensors"):
        pulled()


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "there is no token"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "is not there"),
        (500, {}, "could not ask for"),
        (429, {"Retry-After": "900"}, "asks to wait 900 s"),
    ],
)
def test_a_listing_that_cannot_be_had(hub, prepared, status, headers, message):
    hub.fail("hub:/api/", status=status, headers=headers, times=9)
    with pytest.raises(ModelError, match=message):
        prepared()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b'[{"type": "file"}]', b"\xff"])
def test_a_listing_that_is_none(hub, prepared, body, monkeypatch):
    from tests.hub_server import HubHandler

    monkeypatch.setattr(HubHandler, "list_files", lambda self, *_: self.send(200, body))
    with pytest.raises(ModelError, match=r"does not answer as the Hub does|that is no JSON"):
        prepared()


def test_names_in_a_listing_cannot_leave_the_folder(hub, pulled, tmp_path):
    hub.files["../../../../evil/tokenizer.json"] = b"x" * 100
    _, folder = pulled()
    assert len([*folder.iterdir()]) == len(FILES_OF_IT)
    assert not [*tmp_path.rglob("evil")]


def test_a_mirror_cannot_change_the_pinned_commit(hub, prepared):
    commit = COMMITS[DEFAULT_REPO]
    hub.repos[DEFAULT_REPO] = {commit: dict.fromkeys(FILES[commit], b"other")}
    with pytest.raises(ModelError, match="than was published") as refusal:
        prepared(model=DEFAULT_REPO)
    assert "unset HF_ENDPOINT" in refusal.value.hint
    del hub.repos[DEFAULT_REPO][commit]["model.safetensors.index.json"]
    with pytest.raises(ModelError):
        prepared(model=DEFAULT_REPO)


def test_room_is_asked_for_first(hub, prepared, monkeypatch):
    job = prepared(quant="int4")
    need = round(1.1 * (job.download_bytes + job.quantized_bytes))
    free = SimpleNamespace(free=need)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    job.check_room()
    free.free = need - 1
    with pytest.raises(DoesNotFitError, match=r"and 10% more; .* are missing") as refusal:
        job.check_room()
    assert refusal.value.exit_code == 5
    assert "--quant bf16" in refusal.value.hint
    prepared(quant="bf16").check_room()
    returned(fetch.run(job))
    free.free = 0
    job.check_room()


def test_large_weights_need_room_for_int4(hub, prepared, monkeypatch):
    monkeypatch.setattr(stored, "SMALL_BYTES", 1_000)
    assert prepared(quant=None).quantized_bytes == round(102_400 * 0.39)
    monkeypatch.setattr(stored, "SMALL_BYTES", 10**9)
    assert prepared(quant=None).quantized_bytes == 0


def test_a_mirror_in_a_folder(hub, pulled, monkeypatch):
    from huggingface_hub import constants

    hub.prefix = "/mirror/hf"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint + hub.prefix)
    pulled()
    assert all(each.path.startswith(hub.prefix) for each in hub.asked if each.server == "hub")


def test_a_cache_that_may_not_be_looked_into_is_an_error(hub, prepared, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelError, match=r"config\.json cannot be read: permission denied"):
        prepared()
    (Repo.of(REPO).folder / "refs").mkdir(parents=True)
    (Repo.of(REPO).folder / "refs" / "main").write_text(COMMIT)
    with pytest.raises(ModelError, match=r"config\.json cannot be read: permission denied"):
        resolve(REPO)


def test_a_model_may_be_refused_before_its_weights_come(hub, prepared):
    def refuse(config):
        raise DoesNotFitError("too large")

    with pytest.raises(DoesNotFitError):
        list(fetch.run(prepared(), refuse))
    assert not hub.gets("/xet/")


# -- alone -----------------------------------------------------------------------------------------


def test_another_qwen35_is_waited_for_by_name(hub, prepared):
    job = prepared()
    with job.repo.alone():
        work = fetch.run(job)
        waiting = next(work)
        assert waiting.who == (
            f"another qwen35 (pid {os.getpid()}) is downloading or removing owner/name"
        )
        assert not hub.gets("/resolve/")
    assert len([event for event in work if isinstance(event, fetch.Finished)]) == 5


def test_who_waited_hashes_nothing_again(hub, prepared):
    first, second = prepared(), prepared()
    assert fetched(fetch.run(first)) == first.nbytes
    hub.asked.clear()
    events = [*fetch.run(second)]
    assert {type(event) for event in events} == {fetch.Finished}
    assert (fetched(events), hub.asked) == (0, [])


def test_nobody_removes_while_it_runs(hub, prepared):
    job = prepared()
    work = fetch.run(job)
    next(work)
    with pytest.raises(InUse, match=r"another qwen35 \(pid \d+\) is downloading"), job.repo.alone():
        pass
    work.close()
    with job.repo.alone():
        pass


def test_a_whole_cache_that_cannot_be_written_needs_no_lock(hub, pulled, cache, monkeypatch):
    _, folder = pulled()
    shutil.rmtree(cache / "qwen35")

    @contextmanager
    def refuse(*arguments, **more):
        raise OSError(30, "Read-only file system")
        yield

    monkeypatch.setattr(Repo, "alone", refuse)
    monkeypatch.setattr(verified, "write", refuse)
    assert pulled()[1] == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(Qwen35Error, match=r"could not write .*: Read-only file system"):
        pulled()


# -- without the network ---------------------------------------------------------------------------


@pytest.fixture
def no_socket(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("the network"))


def test_a_commit_is_found_by_its_beginning(hub, pulled):
    hub.branches["c0ffee0"] = COMMIT  # as the Hub completes it
    _, folder = pulled(revision="c0ffee0")
    assert resolve(REPO, "c0ffee0").folder == folder
    assert pulled(revision="c0ffee0", offline=True)[1] == folder
    (folder.parent / ("c0ffee0" + "1" * 33)).mkdir()
    with pytest.raises(NotInCache):
        resolve(REPO, "c0ffee0")


def test_offline_with_nothing(hub, prepared, no_socket):
    with pytest.raises(ModelError, match="not in the cache and --offline is set") as refusal:
        prepared(offline=True)
    assert refusal.value.hint == "qwen35 pull owner/name without it"


def test_offline_with_all(hub, pulled, monkeypatch, request):
    _, folder = pulled()
    request.getfixturevalue("no_socket")
    assert pulled(offline=True) == ([], folder)


def test_offline_with_a_part_that_another_program_left(hub, pulled, cache, request):
    _, folder = pulled()
    shutil.rmtree(cache / "qwen35")
    (folder / "tokenizer.json").unlink()
    request.getfixturevalue("no_socket")
    with pytest.raises(ModelError, match="is in the cache in part, and --offline is set: 4 files"):
        pulled(offline=True)


def test_offline_with_a_part_names_what_is_missing(hub, prepared, cache, request):
    job = prepared()
    list(fetch.run(job))
    blob = job.repo.blob(next(file for file in job.files if file.name == "model.safetensors"))
    blob.unlink()
    request.getfixturevalue("no_socket")
    with pytest.raises(ModelError, match="1 of 5 files of owner/name are missing") as refusal:
        prepared(offline=True)
    assert "model.safetensors" in refusal.value.message


def test_the_variable_is_as_good_as_the_flag(hub, prepared, monkeypatch, no_socket):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):
        prepared()


def test_offline_hashes_what_others_fetched(hub, pulled, cache, request):
    _, folder = pulled()
    shutil.rmtree(cache / "qwen35")
    request.getfixturevalue("no_socket")
    events, again = pulled(offline=True)
    assert again == folder
    assert any(isinstance(event, fetch.Moving) and event.checking for event in events)
    assert verified.is_verified(Repo.of(REPO), COMMIT)


def test_offline_does_not_mend(hub, pulled, cache, request):
    _, folder = pulled()
    shutil.rmtree(cache / "qwen35")
    data = FILES_OF_IT["model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"!" + data[1:])
    request.getfixturevalue("no_socket")
    with pytest.raises(ModelError, match="is wrong: its SHA-256"):
        pulled(offline=True)
    assert (folder / "model.safetensors").exists()


# -- the token -------------------------------------------------------------------------------------


def test_a_token_for_another_host_is_known_beforehand(hub, monkeypatch):
    from huggingface_hub import constants

    assert pull.token_goes_to() is None
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull.token_goes_to() == hub.endpoint
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    assert pull.token_goes_to() is None
    assert not hub.asked


@pytest.mark.parametrize("token", ["hf_secr\u00e9t", "hf_\x01secret"])
def test_a_token_that_cannot_be_sent_is_not_shown(hub, prepared, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(Qwen35Error, match="has characters that none has") as refusal:
        prepared()
    assert "secr" not in refusal.value.message
    assert not hub.asked


@pytest.mark.parametrize(
    ("make", "why"),
    [(Path.mkdir, "Is a directory"), (lambda path: path.write_bytes(b"\xff"), "it is no text")],
)
def test_a_token_that_cannot_be_read_is_an_error(hub, prepared, monkeypatch, tmp_path, make, why):
    from huggingface_hub import constants

    make(tmp_path / "hf_token")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf_token"))
    with pytest.raises(Qwen35Error, match=f"hf_token cannot be read: {why}"):
        prepared()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    prepared()


def test_a_token_that_is_not_lent_is_an_error(hub, prepared, monkeypatch):
    monkeypatch.setenv("HF_OIDC_RESOURCE", "owner")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(Qwen35Error, match="no Hugging Face token could be had: HF_OIDC_RESOURCE"):
        prepared()
    assert not hub.asked


def test_a_private_repository_comes_with_the_token(hub, pulled, monkeypatch):
    hub.private_token = "hf_secret"
    with pytest.raises(ModelError, match="there is no token"):
        pulled()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ModelError, match="the token does not open it"):
        pulled()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.asked.clear()
    pulled()
    assert {asked.headers.get("authorization") for asked in hub.asked if asked.server == "hub"} == {
        "Bearer hf_secret"
    }
    assert not any("authorization" in asked.headers for asked in hub.gets("/xet/"))


# -- verify ----------------------------------------------------------------------------------------


def findings(tmp_path, model=REPO):
    events = verify.run(model, None, tmp_path / "store")
    return [event for event in events if isinstance(event, verify.Finding)]


def test_verify_reads_every_byte(hub, pulled, tmp_path):
    pulled()
    found = {finding.path.name: finding for finding in findings(tmp_path)}
    assert found.keys() == FILES_OF_IT.keys()
    for name, data in FILES_OF_IT.items():
        assert found[name].found == hashlib.sha256(data).hexdigest() == found[name].expected


def test_a_flipped_byte_is_found_refused_and_mended(hub, pulled, tmp_path):
    _, folder = pulled()
    path = folder / "model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolve(REPO).folder == folder  # a stat does not show it
    [wrong] = [finding for finding in findings(tmp_path) if not finding.is_right]
    assert wrong.path == path
    assert wrong.found == hashlib.sha256(data).hexdigest()
    with pytest.raises(ModelError, match="does not have the content"):
        resolve(REPO)
    events, _ = pulled()
    assert fetched(events) == len(data)
    assert all(finding.is_right for finding in findings(tmp_path))
    assert resolve(REPO).folder == folder


def test_a_touched_file_starts_again_after_verify(hub, pulled, tmp_path):
    _, folder = pulled()
    (folder / "model.safetensors").touch()
    with pytest.raises(ModelError, match="has changed since it was verified"):
        resolve(REPO)
    assert all(finding.is_right for finding in findings(tmp_path))
    assert resolve(REPO).folder == folder


def test_a_missing_file_is_found(hub, pulled, tmp_path):
    _, folder = pulled()
    (folder / "tokenizer_config.json").unlink()
    [wrong] = [finding for finding in findings(tmp_path) if not finding.is_right]
    assert (wrong.path.name, wrong.found) == ("tokenizer_config.json", None)


def test_what_others_fetched_is_verified_by_the_names_of_its_blobs(hub, pulled, cache, tmp_path):
    pulled()
    shutil.rmtree(cache / "qwen35")
    hub.asked.clear()
    assert len(findings(tmp_path)) == len(FILES_OF_IT)
    assert not hub.asked
    assert verified.is_verified(Repo.of(REPO), COMMIT)


@pytest.mark.parametrize("model", ["demo", "."])
def test_what_nothing_is_known_of_cannot_be_verified(model, tmp_path):
    with pytest.raises(UsageError):
        findings(tmp_path, model)


def test_what_is_not_here_cannot_be_verified(hub, tmp_path):
    with pytest.raises(ModelError, match="is not in the local Hugging Face cache") as refusal:
        findings(tmp_path)
    assert refusal.value.hint == f"qwen35 pull {REPO} fetches it"
