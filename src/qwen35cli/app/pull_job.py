"""The files of a download, what is here of them, and the room that the rest needs. No torch."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35cli.checkpoint import verified
from qwen35cli.checkpoint.hub import HubFile, Repo
from qwen35cli.checkpoint.remote import Remote
from qwen35cli.checkpoint.verified import Notes
from qwen35cli.errors import DoesNotFitError
from qwen35cli.quant.plan import Format

from .private_files import existing
from .units import size

SPARE = 0.1  # of what is written
# what quantized weights take, as a share of the bf16 ones: of 4B, with vision and MTP
SHARE: dict[Format, float] = {"bf16": 0.0, "int8": 0.54, "int4": 0.39, "nf4": 0.37}


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one disk has to take."""

    place: Path  # a folder on it
    need: int  # bytes
    free: int
    parts: str

    def __str__(self) -> str:
        return (
            f"{size(self.need)} on the disk of {self.place}: {self.parts}, and "
            f"{SPARE:.0%} more; {size(self.free)} are free"
        )


@dataclass(slots=True)
class Job:
    """A commit's files, and which of them are here; nothing is written yet."""

    repo: Repo
    commit: str
    branch: str | None  # that was asked for, and is at this commit
    files: tuple[HubFile, ...]
    notes: Notes
    remote: Remote | None  # None: the network is not to be used
    store: Path
    quant: Format
    is_unnoted: bool = False  # the cache cannot be written, which was said

    @property
    def folder(self) -> Path:
        """Where the checkpoint is, or will be."""
        return self.repo.snapshot(self.commit)

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)

    def present(self, file: HubFile) -> Path | None:
        """Where a file is already, of the right size."""
        path = self.repo.present(self.commit, file)
        return path if path is not None and path.stat().st_size == file.size else None

    def part_bytes(self, file: HubFile) -> int:
        """How much of a file an earlier run left."""
        try:
            size = self.repo.part(file).stat().st_size
        except OSError:
            return 0
        return size if size <= file.size else 0

    @property
    def missing(self) -> list[HubFile]:
        return [file for file in self.files if self.present(file) is None]

    @property
    def download_bytes(self) -> int:
        """What has to come over the network."""
        return sum(file.size - self.part_bytes(file) for file in self.missing)

    @property
    def quantized_bytes(self) -> int:
        """About what the quantized weights will take."""
        weights = sum(file.size for file in self.files if file.name.endswith(".safetensors"))
        return round(weights * SHARE[self.quant])

    def is_verified(self, file: HubFile) -> bool:
        """Whether a file was verified, and has not changed since."""
        path, known = self.present(file), self.notes.files.get(file.name)
        return path is not None and known is not None and verified.is_current(path, known)

    @property
    def is_whole(self) -> bool:
        """Whether the snapshot has all its files, right or wrong."""
        return not self.missing and all((self.folder / file.name).is_file() for file in self.files)

    @property
    def is_done(self) -> bool:
        return self.is_whole and all(map(self.is_verified, self.files))

    def note(self, file: HubFile, digest: verified.Digest, changed_ns: int) -> None:
        """Remember that a file was found right in this state."""
        self.notes = self.notes.noted(replace(file, sha256=digest.sha256), changed_ns)

    def learn(self) -> None:
        """Take over what others have noted since the files were looked at."""
        if there := verified.read(self.repo, self.commit):
            self.notes = kept(self.notes, there)

    def rooms(self) -> list[Room]:
        """What the disks have to take, of what is missing and is to be made of it."""
        if not self.missing:
            return []
        wanted = {self.repo.cache: (self.download_bytes, "to download")}
        if self.quantized_bytes:
            wanted[self.store] = (self.quantized_bytes, f"about, as {self.quant}")
        by_disk: dict[int, list[tuple[Path, int, str]]] = {}
        for path, (nbytes, what) in wanted.items():
            place = existing(path)
            by_disk.setdefault(place.stat().st_dev, []).append((place, nbytes, what))
        return [
            Room(
                place=parts[0][0],
                need=round(sum(nbytes for _, nbytes, _ in parts) * (1 + SPARE)),
                free=shutil.disk_usage(parts[0][0]).free,
                parts=", ".join(f"{size(nbytes)} {what}" for _, nbytes, what in parts),
            )
            for parts in by_disk.values()
        ]

    def check_room(self) -> None:
        """Refuse before the download what would break off within it.

        Raises:
            DoesNotFitError: a disk has not enough room; with numbers.
        """
        for room in self.rooms():
            missing = room.need - room.free
            if missing > 0:
                without = "; --quant bf16 needs the download alone" if self.quantized_bytes else ""
                raise DoesNotFitError(
                    f"{self.repo.repo_id} needs {room}, {size(missing)} are missing",
                    f"make room, or HF_HUB_CACHE=DIR on another disk{without}",
                )


def kept(notes: Notes, old: Notes) -> Notes:
    """The files of `notes`, with what is known of them where they are still the same."""

    def known_of(file: HubFile) -> verified.Known:
        known = old.files.get(file.name)
        if known is None or known.file.etag != file.etag:
            return verified.Known(file, None)
        sha256 = file.sha256 or known.file.sha256
        return verified.Known(replace(file, sha256=sha256), known.changed_ns)

    files = {name: known_of(known.file) for name, known in notes.files.items()}
    return Notes(notes.is_listing, files)
