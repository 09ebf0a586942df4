"""Finding out what a download is to bring into the shared Hugging Face cache. No torch."""

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from qwen35cli.checkpoint import listing, verified
from qwen35cli.checkpoint.hub import (
    COMMIT,
    Repo,
    hub_constants,
    is_whole,
    pull_command,
    read_errors,
)
from qwen35cli.checkpoint.pinned import COMMITS, FILES
from qwen35cli.checkpoint.remote import HOME, Patience, Remote, Retrying, address
from qwen35cli.checkpoint.verified import Notes
from qwen35cli.errors import ModelError, Qwen35Error
from qwen35cli.quant.plan import Format

from .pull_job import Job, kept
from .stored import default_format
from .units import size

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """What the user asked for."""

    model: str
    store: Path  # where quantized weights go
    revision: str | None = None
    offline: bool = False
    quant: Format | None = None  # to leave room for; None: what `chat` would make
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something went wrong and is dealt with; `wait_s` until it is."""

    text: str
    wait_s: float = 0.0


def offline_by(flag: bool) -> str | None:
    """What forbids the network: `--offline`, or a variable; None: nothing does."""
    constants = hub_constants()
    if flag:
        return "--offline"
    return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE" if constants.HF_HUB_OFFLINE else None


def token_goes_to() -> str | None:
    """The host that a token would go to, where that is not huggingface.co."""
    remote = _remote(Patience())
    return remote.endpoint if remote.token and remote.endpoint != HOME else None


def prepare(options: PullOptions) -> Generator[Trouble, None, Job]:
    """Find out which files there are, and which are here already.

    The Hub is asked only for what is not known yet: a commit never changes.

    Raises:
        ModelError: there is no such model, or the Hub cannot be asked.
    """
    repo = Repo.of(options.model)
    with read_errors(repo.folder):
        return (yield from _prepared(repo, options))


def _prepared(repo: Repo, options: PullOptions) -> Generator[Trouble, None, Job]:
    by = offline_by(options.offline)
    remote = None if by else _remote(options.patience)
    revision = options.revision
    commit = COMMITS.get(repo.repo_id) if revision is None else None
    branch = None if commit else revision or "main"
    if branch is not None:
        if remote is None or COMMIT.fullmatch(branch):
            commit = repo.commit_of(branch)
        else:
            commit = yield from _told(listing.ask_commit(remote, repo, branch))
    if branch is not None and commit is not None and commit.startswith(branch):
        branch = None
    notes = verified.read(repo, commit) if commit else None
    if commit is not None and remote is not None and (notes is None or not notes.is_listing):
        files = yield from _told(listing.ask_files(remote, repo, commit))
        listed = Notes(True, {file.name: verified.Known(file, None) for file in files})
        notes = kept(listed, notes) if notes else listed
    elif commit is not None and notes is None:
        found = listing.in_snapshot(repo, commit)
        notes = Notes(False, {file.name: verified.Known(file, None) for file in found})
    if commit is None or notes is None or not notes.files:
        raise missing_offline(repo.repo_id, revision, by)
    files = listing.in_order(known.file for known in notes.files.values())
    weights = sum(file.size for file in files if file.name.endswith(".safetensors"))
    quant = options.quant or default_format(weights)
    job = Job(repo, commit, branch, files, notes, remote, options.store, quant)
    lacking = job.missing  # looked at in any case: a cache that cannot be read shows here
    if remote is None:
        without = f"{pull_command(repo.repo_id, revision)} without it"
        if lacking:
            names = ", ".join(file.name for file in lacking)
            raise ModelError(
                f"{len(lacking)} of {len(files)} files of {repo.repo_id} are missing "
                f"({size(job.download_bytes)}: {names}), and {by} is set",
                without,
            )
        if not (notes.is_listing or _is_all(job)):
            raise ModelError(
                f"{repo.repo_id} is in the cache in part, and {by} is set: "
                f"{len(files)} files, of {size(job.nbytes)}, are there",
                without,
            )
    return job


def _is_all(job: Job) -> bool:
    """Whether files that were found, and not listed by the Hub, are all of a checkpoint."""
    names = {file.name for file in job.files}
    return FILES.get(job.commit, {}).keys() <= names and is_whole(job.folder)


def known_bytes(repo_id: str, revision: str | None) -> int | None:
    """What a download takes, where that is known without asking."""
    pinned = COMMITS.get(repo_id)
    if pinned is None or revision not in (None, pinned):
        return None
    return sum(size for size, _ in FILES[pinned].values())


def missing_offline(repo_id: str, revision: str | None, by: str | None) -> ModelError:
    """The refusal to fetch what is not here."""
    at = f" at {revision}" if revision else ""
    return ModelError(
        f"{repo_id}{at} is not in the cache and {by} is set",
        f"{pull_command(repo_id, revision)} without it",
    )


def _remote(patience: Patience) -> Remote:
    return Remote(address(hub_constants().ENDPOINT), _token(), patience)


def _token() -> str | None:
    """The token that Hugging Face's programs send too.

    Raises:
        Qwen35Error: it cannot be read, or no request can carry it.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    hint = "hf auth login, or set HF_TOKEN; HF_HUB_DISABLE_IMPLICIT_TOKEN=1 sends none"
    try:
        token = get_token()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Qwen35Error(
            f"the Hugging Face token in {constants.HF_TOKEN_PATH} cannot be read: {why}", hint
        ) from None
    except Exception as error:  # what lends tokens (OIDC, OAuth) fails in ways of its own
        raise Qwen35Error(f"no Hugging Face token could be had: {error}", hint) from error
    if token is not None and not (token.isascii() and token.isprintable()):
        raise Qwen35Error("the Hugging Face token has characters that none has", hint)
    return token


def _told(work: Generator[Retrying, None, T]) -> Generator[Trouble, None, T]:
    while True:
        try:
            retrying = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield Trouble(retrying.reason, retrying.wait_s)
        time.sleep(retrying.wait_s)
