"""What the user says in one turn: files, piped text, prompt and pictures, made into a message."""

import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from qwen35cli.errors import UsageError
from qwen35cli.images.open import OpenedImage, decode_image, nearest, open_image, printable
from qwen35cli.images.preprocess import Patches, preprocess
from qwen35cli.images.resize import ImageLimits
from qwen35cli.text.template import ImagePart, Message, Text

from .load import Opened
from .paths import local_path
from .units import counted

MAX_TEXT_BYTES = 64 * 2**20
# The formats that are read, by first bytes that no text has.
_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBPVP8|GIF8[79]a.{6}\0|BM.{4}\0{4}", re.DOTALL
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
FILE_HINT = "-f FILE, or /read FILE in a chat"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as the model will see it, and the file it came from."""

    name: str
    original_size: tuple[int, int]
    note: str | None
    patches: Patches
    data: bytes = field(repr=False)  # the file as it was given
    digest: str = field(init=False)  # SHA-256 of `data`, in hexadecimal

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.data).hexdigest())

    def __str__(self) -> str:
        (width, height), (w, h) = self.original_size, self.patches.size
        resized = f" → {w}×{h}" if (w, h) != (width, height) else ""
        note = f" ({self.note})" if self.note else ""
        tokens = counted(self.patches.tokens, "token")
        return f"{self.name} {width}×{height}{resized} · {tokens}{note}"


@dataclass(frozen=True, slots=True)
class Document:
    """A text file that stands before what is asked about it."""

    name: str  # as it was given, safe to print
    text: str

    @property
    def nbytes(self) -> int:
        return len(self.text.encode())

    @property
    def part(self) -> str:
        """The document in the fixed form that keeps prompts about it alike."""
        return f"File: {self.name}\n{self.text}"

    def __str__(self) -> str:
        return f"{self.name} {self.nbytes:,} bytes"


@dataclass(frozen=True, slots=True)
class Question:
    """One turn of the user: texts and pictures in the order in which they were given.

    The texts are joined as they are. Each of their borders is a place to which the memory of
    turns can return, so two questions about one document share what was read of it.
    """

    parts: tuple[str | Picture, ...]

    @classmethod
    def of(cls, text: str) -> "Question":
        """A question that is one text."""
        return cls((text,))

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if isinstance(part, Picture))

    @property
    def message(self) -> Message:
        return Message(
            "user",
            tuple(
                Text(part) if isinstance(part, str) else ImagePart(part.patches.tokens)
                for part in self.parts
                if part != ""
            ),
        )


def text_parts(files: Sequence[str], piped: bytes | None, prompt: str | None) -> tuple[str, ...]:
    """Files as given, then what was piped in, then the prompt; joined, a blank line is between.

    Raises:
        UsageError: a file is missing or a part is not UTF-8 text.
    """
    parts = [read_document(name).part for name in files]
    if piped is not None:
        parts.append(decode(piped, "stdin", "qwen35 ask -i - takes a picture from stdin"))
    parts.append(prompt or "")
    return spaced(parts)


def spaced(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts that are not empty, all but the last with a blank line after them."""
    kept = [stripped for text in texts if (stripped := text.strip("\r\n"))]
    return (*(text + "\n\n" for text in kept[:-1]), *kept[-1:])


def read_document(name: str) -> Document:
    """The text file called `name`.

    Raises:
        UsageError: missing, not readable, too large, or not UTF-8 text.
    """
    path, shown = local_path(name), printable(name)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device"
            raise UsageError(f"{shown} is {kind}, not a text file", "give text files, or *.txt")
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"no file at {shown}", nearest(path, name) or FILE_HINT) from None
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror}", FILE_HINT) from None
    except ValueError:  # a zero byte in the name
        raise UsageError(f"no file at {shown}", FILE_HINT) from None
    quoted = shlex.quote(shown)
    return Document(shown, decode(data, shown, f"-i {quoted}, or /image {quoted} in a chat"))


def decode(data: bytes, name: str, picture_hint: str) -> str:
    """`data` as UTF-8, without the mark that some editors begin it with.

    Raises:
        UsageError: too much, a picture, another binary file, or not UTF-8; with the offset.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise UsageError(f"{name} has more than {MAX_TEXT_BYTES // 2**20} MiB of text")
    if _PICTURE.match(data):
        raise UsageError(f"{name} is a picture, not text", picture_hint)
    if data.startswith(_UTF16):
        raise UsageError(f"{name} is UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8 converts it")
    if (zero := data.find(b"\0")) >= 0:
        raise UsageError(f"{name} is binary: a zero byte at offset {zero:,}", "only text is read")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}",
            "iconv -f LATIN1 -t UTF-8 converts the common other encoding",
        ) from None


def load_pictures(
    opened: Opened, names: Sequence[str], given: Mapping[str, bytes] | None = None
) -> tuple[Picture, ...]:
    """Open and cut every picture; a name in `given`, as `-` for stdin, stands for those bytes.

    Raises:
        UsageError: not a picture, out of bounds, or the checkpoint sees none.
    """
    if not names:
        return ()
    limits = _limits(opened)
    held = given or {}
    return tuple(
        _cut(
            decode_image(held[name], "stdin" if name == "-" else name)
            if name in held
            else _open(name),
            limits,
        )
        for name in names
    )


def load_picture(opened: Opened, data: bytes, name: str) -> Picture:
    """Decode and cut the picture in `data`: from the clipboard, or a saved session.

    Raises:
        UsageError: not a picture, out of bounds, or the checkpoint sees none.
    """
    return _cut(decode_image(data, name), _limits(opened))


def _limits(opened: Opened) -> ImageLimits:
    if opened.image_limits is None:
        raise UsageError(
            f"{opened.source.name} takes no pictures: it has no vision tower, "
            "or no preprocessor_config.json",
            "leave the picture out",
        )
    return opened.image_limits


def _open(name: str) -> OpenedImage:
    if name.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{name} is a URL; nothing is fetched",
            f'curl -L {shlex.quote(name)} | qwen35 ask -i - "…"',
        )
    path = local_path(name)
    return open_image(path, str(path) if name.lower().startswith("file:") else name)


def _cut(image: OpenedImage, limits: ImageLimits) -> Picture:
    try:
        patches = preprocess(image.picture, limits)
    except UsageError as error:
        raise UsageError(f"{image.name}: {error.message}", error.hint) from None
    return Picture(image.name, image.original_size, image.note, patches, image.data)
