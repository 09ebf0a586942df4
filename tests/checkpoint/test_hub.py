"""The local Hugging Face cache is found; nothing else is asked."""

import socket

import pytest

from qwen35cli.checkpoint.hub import find_in_cache
from qwen35cli.errors import ModelError

COMMIT = "851bf6e806efd8d0a36b00ddf55e13ccb7b8cd0a"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one revision of owner/name; no socket can be opened."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("the network was asked"))
    repo = tmp_path / "models--owner--name"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return snapshot


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
