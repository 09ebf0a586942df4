"""What the user says in one turn: files, piped text, prompt and pictures, made into a message."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qwen35cli.errors import UsageError
from qwen35cli.images.open import OpenedImage, decode_image, open_image
from qwen35cli.images.preprocess import Patches, preprocess
from qwen35cli.images.resize import ImageLimits
from qwen35cli.text.sanitize import sanitize
from qwen35cli.text.template import ImagePart, Message, Part, Text

from .load import Opened

MAX_TEXT_BYTES = 64 * 2**20
PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the model will see it."""

    name: str
    original_size: tuple[int, int]
    note: str | None
    patches: Patches

    def __str__(self) -> str:
        (width, height), (w, h) = self.original_size, self.patches.size
        resized = f" → {w}×{h}" if (w, h) != (width, height) else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.name} {width}×{height}{resized} · {self.patches.tokens:,} tokens{note}"


@dataclass(frozen=True, slots=True)
class Question:
    """One turn of the user: pictures first, then text."""

    text: str
    pictures: tuple[Picture, ...] = ()

    @property
    def message(self) -> Message:
        parts: list[Part] = [ImagePart(picture.patches.tokens) for picture in self.pictures]
        if self.text:
            parts.append(Text(self.text))
        return Message("user", tuple(parts))


def join_texts(files: Sequence[str], piped: bytes | None, prompt: str | None) -> str:
    """Files as given, then what was piped in, then the prompt; one blank line between parts.

    Raises:
        UsageError: a file is missing or a part is not UTF-8 text.
    """
    parts = [f"File: {sanitize(name)}\n{read_text(name)}" for name in files]
    if piped is not None:
        parts.append(decode(piped, "stdin", "qwen35 ask -i - takes a picture from stdin"))
    parts.append(prompt or "")
    return "\n\n".join(stripped for part in parts if (stripped := part.strip("\r\n")))


def read_text(name: str) -> str:
    """The text of the file called `name`.

    Raises:
        UsageError: missing, not readable, too large, or not UTF-8 text.
    """
    path = Path(name).expanduser()
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device"
            raise UsageError(f"{name} is {kind}, not a text file", "-f takes text files")
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        reason = f"no file at {name}" if isinstance(error, FileNotFoundError) else None
        raise UsageError(reason or f"cannot read {name}: {error.strerror}", "-f FILE") from None
    return decode(data, name, f"-i {name} attaches a picture")


def decode(data: bytes, name: str, picture_hint: str) -> str:
    """`data` as UTF-8.

    Raises:
        UsageError: too much, a picture, another binary file, or not UTF-8; with the offset.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise UsageError(f"{name} has more than {MAX_TEXT_BYTES // 2**20} MiB of text")
    if data.startswith(PICTURES):
        raise UsageError(f"{name} is a picture, not text", picture_hint)
    if (zero := data.find(b"\0")) >= 0:
        raise UsageError(f"{name} is binary: a zero byte at offset {zero:,}", "only text is read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}",
            "iconv -f LATIN1 -t UTF-8 converts the common other encoding",
        ) from None


def load_pictures(opened: Opened, names: Sequence[str], piped: bytes | None) -> tuple[Picture, ...]:
    """Open and cut every picture; the name `-` stands for the bytes that were piped in.

    Raises:
        UsageError: not a picture, out of bounds, or the checkpoint sees none.
    """
    limits = opened.image_limits
    if not names:
        return ()
    if limits is None:
        raise UsageError(
            f"{opened.source.name} takes no pictures: it has no vision tower, "
            "or no preprocessor_config.json",
            "leave out -i",
        )
    return tuple(_cut(_open(name, piped), limits) for name in names)


def _open(name: str, piped: bytes | None) -> OpenedImage:
    if name == "-":
        return decode_image(piped or b"", "stdin")
    if name.startswith(("http://", "https://")):
        raise UsageError(
            f"{name} is a URL; nothing is fetched", f'curl -L {name} | qwen35 ask -i - "…"'
        )
    if name.lower().startswith("file:"):
        return open_image(_local_path(name))
    return open_image(Path(name).expanduser())


def _local_path(url: str) -> Path:
    """The path that a `file://` URL stands for, as file managers hand it over."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{url} names a file on another machine, {parts.netloc}", "-i PATH")
    return Path(unquote(parts.path, errors="surrogateescape"))


def _cut(image: OpenedImage, limits: ImageLimits) -> Picture:
    try:
        patches = preprocess(image.picture, limits)
    except UsageError as error:
        raise UsageError(f"{image.name}: {error.message}", error.hint) from None
    return Picture(image.name, image.original_size, image.note, patches)
