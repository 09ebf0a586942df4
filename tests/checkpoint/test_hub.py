"""The local Hugging Face cache is found, and judged whole; nothing else is asked."""

import json
import os
import socket
from pathlib import Path

import pytest

from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.folder import weight_files
from qwen35cli.checkpoint.hub import HubFile, NotInCache, Repo, find_in_cache, is_whole
from qwen35cli.checkpoint.pinned import COMMITS, DEFAULT_REPO, FILES
from qwen35cli.checkpoint.verified import WRONG, Known, Notes
from qwen35cli.errors import ModelError, UsageError

COMMIT = "851bf6e806efd8d0a36b00ddf55e13ccb7b8cd0a"
OTHER = "0" * 40
PARTS = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("the network was asked"))
    return tmp_path


def add(cache, repo_id, commit, *, main=True, parts=PARTS):
    """A snapshot of a repository."""
    repo = cache / ("models--" + repo_id.replace("/", "--"))
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in parts:
        (snapshot / name).write_text("{}")
    if main:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(hub_cache):
    """A cache with one revision of owner/name; no socket can be opened."""
    return add(hub_cache, "owner/name", COMMIT)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_finds_the_snapshot(cache, revision):
    assert find_in_cache("owner/name", revision) == cache


@pytest.mark.parametrize(
    ("repo_id", "revision"), [("owner/other", None), ("owner/name", "other"), ("a/b/../c", None)]
)
def test_what_is_not_there_is_an_error_with_a_hint(cache, repo_id, revision):
    with pytest.raises(ModelError) as refusal:
        find_in_cache(repo_id, revision)
    assert refusal.value.hint


@pytest.mark.parametrize("revision", ["../../x", "a/../b", "/etc/passwd", "a b", ""])
def test_a_revision_cannot_leave_the_folder(cache, revision):
    with pytest.raises((UsageError, NotInCache)):
        find_in_cache("owner/name", revision or "..")


def test_the_pinned_commit_is_the_one_without_a_revision(hub_cache):
    main = add(hub_cache, DEFAULT_REPO, OTHER)
    assert find_in_cache(DEFAULT_REPO) == main
    pinned = add(hub_cache, DEFAULT_REPO, COMMITS[DEFAULT_REPO], main=False)
    assert find_in_cache(DEFAULT_REPO) == pinned
    assert find_in_cache(DEFAULT_REPO, "main") == main


def test_what_is_published_of_the_pinned_commit():
    files = FILES[COMMITS[DEFAULT_REPO]]
    shards = [size for name, (size, _) in files.items() if name.endswith(".safetensors")]
    assert sum(shards) == 9_319_737_856 + 11_168 + 79_072  # the tensors, and two headers
    assert all(len(sha256) == 64 for _, sha256 in files.values())


@pytest.mark.parametrize("lacking", PARTS)
def test_half_a_snapshot_is_none(hub_cache, lacking):
    add(hub_cache, "owner/name", COMMIT, parts=[name for name in PARTS if name != lacking])
    with pytest.raises(NotInCache, match="not in the local") as refusal:
        find_in_cache("owner/name")
    assert refusal.value.hint.startswith("qwen35 pull owner/name fetches it")


def test_every_shard_of_the_index_is_needed(cache):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (cache / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"{shard}.weight": shard for shard in shards}})
    )
    for shard in shards:
        assert not is_whole(cache)
        (cache / shard).touch()
    assert is_whole(cache)


@pytest.mark.parametrize("content", ['{"weight_map": {"a": "%s.safetensors"}}' % ("x" * 300), "{"])
def test_a_damaged_index_is_left_to_who_opens_it(cache, content):
    (cache / "model.safetensors.index.json").write_text(content)
    assert is_whole(cache)
    with pytest.raises(ModelError, match=r"index\.json"):
        weight_files(cache)


def noted(snapshot, changed_ns=None):
    repo = Repo.of("owner/name")
    files = {}
    for name in PARTS:
        status = (snapshot / name).stat()
        file = HubFile(name, status.st_size, "0" * 40, None)
        time = status.st_mtime_ns if changed_ns is None else changed_ns
        files[name] = Known(file, time)
    verified.write(repo, COMMIT, Notes(True, files))
    return repo


def test_a_start_looks_at_sizes_and_times(cache):
    repo = noted(cache)
    assert find_in_cache("owner/name") == cache
    assert verified.is_verified(repo, COMMIT)
    os.utime(cache / "model.safetensors", ns=(1, 1))
    assert not verified.is_verified(repo, COMMIT)
    with pytest.raises(ModelError, match=r"model.safetensors has changed since") as refusal:
        find_in_cache("owner/name")
    assert refusal.value.hint.startswith("qwen35 verify owner/name")


@pytest.mark.parametrize(
    "damage",
    [
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"version": 1}'),
        lambda path: path.write_text('{"version": 2}'),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["pipe", "folder", "no JSON", "incomplete", "another version", "outside"],
)
def test_notes_that_cannot_be_read_are_none(cache, damage):
    repo = noted(cache, WRONG)
    path = repo.verified(COMMIT)
    path.unlink()
    damage(path)
    assert verified.read(repo, COMMIT) is None
    assert find_in_cache("owner/name") == cache


def test_what_was_found_wrong_does_not_start(cache):
    noted(cache, WRONG)
    with pytest.raises(ModelError, match="content that was published") as refusal:
        find_in_cache("owner/name")
    assert refusal.value.hint.startswith("qwen35 pull owner/name")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 2}', '{"version": 1, "is_listing": true, "files": {"../x": 1}}'],
)
def test_damaged_notes_are_as_good_as_none(cache, text):
    repo = noted(cache)
    repo.verified(COMMIT).write_text(text)
    assert verified.read(repo, COMMIT) is None
    assert find_in_cache("owner/name") == cache


def test_a_ref_that_was_cut_off_is_none(cache, monkeypatch):
    repo = Repo.of("owner/name")
    repo.set_ref("main", OTHER)
    assert repo.commit_of("main") == OTHER

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        repo.set_ref("main", COMMIT)
    assert [path.name for path in (repo.folder / "refs").iterdir()] == ["main"]
    assert repo.commit_of("main") == OTHER
