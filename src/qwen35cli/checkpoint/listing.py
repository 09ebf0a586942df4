"""Which files of a repository make a checkpoint, and what the Hub says of them."""

import re
from collections.abc import Generator, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from qwen35cli.errors import ModelError

from .hub import COMMIT, ETAG, NEEDED, HubFile, Repo
from .names import CONFIG
from .pinned import FILES
from .remote import Remote, Retrying

ALLOWED = (
    *("config.json", "generation_config.json", "tokenizer*.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "*preprocessor_config.json"),
    *("model*.safetensors", "model.safetensors.index.json"),
)
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_PAGES = 20
MOST_BYTES = 2**42  # of one file


def is_wanted(name: str) -> bool:
    """Whether a file belongs to a checkpoint. Nothing that runs does, nor anything in a folder."""
    return bool(PLAIN.fullmatch(name)) and any(fnmatchcase(name, glob) for glob in ALLOWED)


def ask_commit(remote: Remote, repo: Repo, revision: str) -> Generator[Retrying, None, str]:
    """The commit that a branch or tag is at now.

    Raises:
        ModelError: there is no such repository or revision, or the Hub cannot be asked.
    """
    path = f"api/models/{repo.repo_id}/revision/{quote(revision, safe='')}"
    answer, _ = yield from remote.get_json(path, f"{repo.repo_id} at {revision}")
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _strange(remote, repo)
    return commit


def ask_files(
    remote: Remote, repo: Repo, commit: str
) -> Generator[Retrying, None, tuple[HubFile, ...]]:
    """The files of a checkpoint as the Hub lists them, the small ones first.

    Raises:
        ModelError: it is no checkpoint in safetensors; or what the Hub says contradicts what is
            known of the pinned commit; or the Hub cannot be asked.
    """
    entries: list[Any] = []
    path = f"api/models/{repo.repo_id}/tree/{commit}"
    for _ in range(MOST_PAGES):
        page, more = yield from remote.get_json(path, f"{repo.repo_id} at {commit[:12]}")
        if not isinstance(page, list):
            raise _strange(remote, repo)
        entries += page
        if more is None:
            break
        path = more
    try:
        found = [_file(entry) for entry in entries if entry["type"] == "file"]
    except (KeyError, TypeError, ValueError):
        raise _strange(remote, repo) from None
    files = tuple(_known(file, remote, commit) for file in found if is_wanted(file.name))
    names = {file.name for file in files}
    if missing := sorted(FILES.get(commit, {}).keys() - names):
        raise ModelError(
            f"{remote.host} lists no {', '.join(missing)} at {commit[:12]}", "try without a mirror"
        )
    if not names.issuperset(NEEDED) or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{repo.repo_id} holds no checkpoint in safetensors: {', '.join(NEEDED)} and "
            "model*.safetensors are needed",
            "Qwen/Qwen3.5-4B is one",
        )
    return in_order(files)


def in_order(files: Iterable[HubFile]) -> tuple[HubFile, ...]:
    """config.json, which tells whether it is a Qwen3.5 at all; then what is small."""
    return tuple(sorted(files, key=lambda file: (file.name != CONFIG, file.size, file.name)))


def in_snapshot(repo: Repo, commit: str) -> tuple[HubFile, ...]:
    """The files of a snapshot that another program fetched, as far as their hashes are known: each
    links to a blob that is named by it.
    """
    pinned = FILES.get(commit, {})
    found = []
    folder = repo.snapshot(commit)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_wanted(path.name) or not path.is_file():
            continue
        size, sha256 = pinned.get(path.name, (path.stat().st_size, None))
        etag = path.readlink().name if path.is_symlink() else sha256 or ""
        if ETAG.fullmatch(etag):
            found.append(HubFile(path.name, size, etag, sha256 or _if_sha256(etag)))
    return in_order(found)


def _file(entry: Mapping[str, Any]) -> HubFile:
    large = entry.get("lfs")
    etag = str(large["oid"] if large else entry["oid"])
    size = int(large["size"] if large else entry["size"])
    if not ETAG.fullmatch(etag) or not 0 <= size <= MOST_BYTES:
        raise ValueError("a hash or size that cannot be")
    return HubFile(str(entry["path"]), size, etag, _if_sha256(etag))


def _known(file: HubFile, remote: Remote, commit: str) -> HubFile:
    """The file with the hash that is known of the pinned commit, which the Hub cannot overrule."""
    pinned = FILES.get(commit, {}).get(file.name)
    if pinned is None:
        return file
    size, sha256 = pinned
    if file.size != size or file.sha256 not in (None, sha256):
        raise ModelError(
            f"{remote.host} lists another {file.name} at {commit[:12]} than was published: "
            f"{file.size:,} bytes and {file.sha256}, published are {size:,} and {sha256}",
            "do not use that host: unset HF_ENDPOINT",
        )
    return HubFile(file.name, size, file.etag, sha256)


def _if_sha256(etag: str) -> str | None:
    return etag if len(etag) == 64 else None


def _strange(remote: Remote, repo: Repo) -> ModelError:
    return ModelError(
        f"{remote.host} does not answer as the Hub does about {repo.repo_id}",
        "HF_ENDPOINT names the host; without it, huggingface.co",
    )
