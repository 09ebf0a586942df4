"""Saved state: what was read of prompts, kept on disk so that nobody waits for it twice.

A file belongs to one combination of weights, formats and program; it is found by the tokens that it
shares with a prompt. Everything here may be deleted at any time, at the price of reading again.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwen35cli.checkpoint.manifest import MANIFEST, Origin
from qwen35cli.checkpoint.state_file import DamagedStateError, StateFile, open_state, write_state
from qwen35cli.engine.archive import contents, fill, tensors_of
from qwen35cli.engine.memory import Memory, Place, keys_of, shared_prefix
from qwen35cli.engine.runner import Prompt
from qwen35cli.errors import ModelError, Qwen35Error

from .estimate import Device
from .load import Loaded, Opened
from .states_folder import over, remove_left_over, remove_state, saved_states

FORMAT = "1"  # of the file, of prompts and of how they are read; a change makes old files useless
CAP_BYTES = 16 * 2**30  # of all files
PLACES_BYTES = 256 * 2**20  # of states in one file: the newest, and the first
# From how many tokens on reading again takes longer than writing and reading a file.
WORTH: Mapping[Device, int] = {"cpu": 256, "cuda": 4_096}  # of a session
WORTH_ONCE: Mapping[Device, int] = {"cpu": 1_024, "cuda": 8_192}  # of a single question

SPOKEN = {  # parts of a fingerprint, as people know them
    "program": "by another version of qwen35",
    "model": "of other weights",
    "quant": "with {} weights",
    "kv": "with {} KV",
    "numbers": "with {} activations",
    "images": "with pictures cut otherwise",
}


def fingerprint(opened: Opened) -> dict[str, str]:
    """What saved state depends on. Two equal ones may share it."""
    limits = opened.image_limits
    return {
        "program": FORMAT,
        "model": _weights(opened),
        "quant": opened.checkpoint.format,
        "kv": opened.kv_dtype,
        "numbers": "float32" if opened.device.type == "cpu" else "bfloat16",
        "images": "" if limits is None else repr(limits),
    }


def _weights(opened: Opened) -> str:
    """A hash that changes with the weights: of the manifest, or of the files' sizes and times.

    Some systems give every file the same time, such as Nix: so that of the inode counts as well.
    """
    folder = opened.source.folder
    digest = hashlib.sha256()
    if (folder / MANIFEST).is_file():
        digest.update((folder / MANIFEST).read_bytes())
    else:
        origin = Origin.of(folder, "", None)
        digest.update(json.dumps(sorted(origin.files.items())).encode())
        for name in sorted(origin.files):
            with suppress(FileNotFoundError):  # gone just now
                digest.update(str((folder / name).stat().st_ctime_ns).encode())
        digest.update((folder / "config.json").read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that begins as a prompt does."""

    file: StateFile
    tokens: int  # that need not be read again


class States:
    """The files of one folder that belong to what is opened.

    Attributes:
        problem: what was wrong with a file that was to be used, for people; None: nothing.
    """

    def __init__(self, folder: Path, opened: Opened, cap_bytes: int = CAP_BYTES) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.fingerprint = fingerprint(opened)
        place: Device = "cuda" if opened.device.type == "cuda" else "cpu"
        self.worth, self.worth_once = WORTH[place], WORTH_ONCE[place]
        self.problem: str | None = None
        self._image_token = opened.checkpoint.config.image_token_id

    def of_session(self, session: str) -> Path:
        """The file with the state of the session that is called so."""
        return self.folder / f"{session}.safetensors"

    def find(self, prompt: Prompt) -> Found | None:
        """The file that shares the most with `prompt`; None where none shares a place."""
        keys = keys_of(prompt, self._image_token)
        best: Found | None = None
        for path in sorted(self.folder.glob("*.safetensors")):
            file = self._open(path)
            if file is None or self.difference(file) is not None:
                continue
            tokens = self._shared(file, keys)
            if tokens and (best is None or tokens > best.tokens):
                best = Found(file, tokens)
        return best

    def load(self, found: Found, loaded: Loaded, prompt: Prompt | None = None) -> int:
        """Fill the memory from a file; tokens that need not be read again.

        Where it cannot be used `problem` says why, and what is damaged is removed; then it is 0.
        """
        keys = None if prompt is None else keys_of(prompt, self._image_token)
        try:
            found.file.check()
            tokens = fill(loaded.memory, found.file.fetch, keys)
        except (DamagedStateError, OSError, ValueError, KeyError) as error:
            self._unusable(found.file.path, error, found.file)
            return 0
        with suppress(OSError):
            os.utime(found.file.path)  # its last use
        return tokens

    def load_session(self, session: str, loaded: Loaded) -> int:
        """Fill the memory with the state of a session; tokens that need not be read again.

        What it held is forgotten in every case: it is not to be saved as that of this session.
        """
        loaded.memory.forget()
        file = self._open(self.of_session(session))
        if file is None:
            return 0
        if (difference := self.difference(file)) is not None:
            self.problem = difference
            return 0
        return self.load(Found(file, 0), loaded)

    def difference(self, file: StateFile) -> str | None:
        """What keeps a file from being used here, for people; None: nothing."""
        for name, mine in self.fingerprint.items():
            theirs = file.metadata.get(name, "")
            if theirs != mine:
                how = SPOKEN[name].format(theirs)
                now = f", now {mine}" if "{}" in SPOKEN[name] else ""
                return f"saved {how}{now}"
        return None

    def save(self, memory: Memory, name: str) -> tuple[int, int]:
        """Keep what is in memory, under the name of a session or of a prompt; tokens and bytes of
        the file.

        A file that holds all of it stays, with what more it holds. 0 and 0 where there is too
        little to be worth it.

        Raises:
            Qwen35Error: it cannot be written; nothing else is lost.
        """
        places = chosen(memory.places, PLACES_BYTES)
        if not places or places[-1].length < self.worth:
            return 0, 0
        path = self.of_session(name)
        if (held := self._held(path, memory.log[: places[-1].length])) is not None:
            return held
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            size = write_state(path, tensors_of(memory, places), self.fingerprint)
        except OSError as error:
            raise Qwen35Error(
                f"the state of {places[-1].length:,} tokens could not be saved in {self.folder}: "
                f"{error.strerror}",
                "qwen35 sessions prune frees room",
            ) from None
        self._prune(path)
        return places[-1].length, size

    def save_prompt(self, memory: Memory) -> tuple[int, int]:
        """Keep what is in memory under a name made of what it begins with."""
        start = json.dumps([self.fingerprint, memory.log[: self.worth]]).encode()
        return self.save(memory, f"prompt-{hashlib.sha256(start).hexdigest()[:16]}")

    def _held(self, path: Path, read: list[int]) -> tuple[int, int] | None:
        """Tokens and bytes of the file at `path`, used now, where it can return to behind `read`;
        else None."""
        file = self._open(path)
        if file is None or self.difference(file) is not None:
            return None
        tokens, places = self._contents(file)
        if tokens[: len(read)] != read or len(read) not in {length for length, *_ in places}:
            return None
        with suppress(OSError):
            os.utime(path)
        return places[-1][0], os.fstat(file.descriptor).st_size

    def _open(self, path: Path) -> StateFile | None:
        try:
            return open_state(path) if path.is_file() else None  # a pipe would block
        except (ModelError, OSError) as error:
            self._unusable(path, error)
            return None

    def _contents(self, file: StateFile) -> tuple[list[int], list[list[int]]]:
        """The keys of the log and the rows of the places; none of either where it is damaged."""
        try:
            return contents(file.fetch)
        except (DamagedStateError, OSError, ValueError, KeyError) as error:
            self._unusable(file.path, error, file)
            return [], []

    def _shared(self, file: StateFile, keys: Sequence[int]) -> int:
        tokens, places = self._contents(file)
        most = min(shared_prefix(tokens, list(keys)), len(keys) - 1)
        return max((length for length, *_ in places if length <= most), default=0)

    def _unusable(self, path: Path, error: Exception, file: StateFile | None = None) -> None:
        """Say what is wrong with the file at `path`, opened as `file` or not at all; one whose
        content is wrong goes."""
        if isinstance(error, FileNotFoundError):  # removed by somebody else just now
            return
        if isinstance(error, OSError):
            self.problem = f"the saved state {path} cannot be read ({error.strerror})"
            return
        self.problem = "the saved state was damaged and is removed"
        if file is None or not file.replaced:
            with suppress(OSError):
                path.unlink()

    def _prune(self, newest: Path) -> None:
        """Remove what was left half written, and the files that were used longest ago where all
        take too much."""
        with suppress(Qwen35Error):  # of the folder; saving again prunes again
            remove_left_over(self.folder)
            states = saved_states(self.folder)
            others = (state for state in states if state.path != newest)
            for state in over(others, sum(state.nbytes for state in states) - self.cap_bytes):
                with suppress(Qwen35Error):  # of a file; the next may go
                    remove_state(state)


def chosen(places: Sequence[Place], cap_bytes: int) -> list[Place]:
    """The last places that fit within `cap_bytes`, and the first; one at least."""
    if not places:
        return []
    taken: list[Place] = []
    room = cap_bytes - places[0].state.nbytes
    for place in reversed(places[1:]):
        room -= place.state.nbytes
        if taken and room < 0:
            break
        taken.append(place)
    return [places[0], *reversed(taken)]
