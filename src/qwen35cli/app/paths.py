"""Paths as people type, quote and drop them."""

import os
import re
import shlex
from glob import has_magic, iglob
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qwen35cli.errors import UsageError
from qwen35cli.images.open import printable

from .source import expanded

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
UNREAD_IMAGES = frozenset({".heic", ".heif", ".avif", ".tif", ".tiff"})
PICTURES = IMAGES | UNREAD_IMAGES  # what ends so is meant as a picture, whether it is read or not
PATH_FORM = re.compile(r"~?/|\.\.?/|(?i:file://)|[A-Za-z]:[\\/]")
DRIVE = re.compile(r"/?([A-Za-z]):[\\/]")
WINDOWS = re.compile(r"(?<![A-Za-z])[A-Za-z]:\\")
WSL_DRIVES = Path("/mnt")
LONGEST_DROP = 32_000  # characters
MOST_FILES = 200


def local_path(written: str) -> Path:
    """The path that is meant: `~/` expanded, a `file://` URL decoded, `C:\\` found under WSL.

    Raises:
        UsageError: an empty name, or a `file://` URL that is damaged or of another machine.
    """
    if written.lower().startswith("file:"):
        try:
            parts = urlsplit(written)
        except ValueError:
            raise UsageError(f"{printable(written)} is no URL of a file", "give a path") from None
        if parts.netloc not in ("", "localhost"):
            host = printable(parts.netloc)
            raise UsageError(
                f"{printable(written)} names a file on another machine, {host}", "copy it here"
            )
        written = unquote(parts.path, errors="surrogateescape")
    if not written:
        raise UsageError("the name of a file is empty", "give a path")
    if drive := DRIVE.match(written):
        if os.name == "nt":
            return Path(written.removeprefix("/"))
        mounted = WSL_DRIVES / drive[1].lower()
        if mounted.is_dir():
            return mounted / written[drive.end() :].replace("\\", "/")
    return expanded(written)


def exists(path: str) -> bool:
    """Whether a file is there; False for what cannot be a name."""
    try:
        return local_path(path).is_file()
    except (OSError, UsageError, ValueError):
        return False


def in_a_folder(path: str) -> bool:
    """Whether a path names a folder, and that is there."""
    try:
        return "/" in path and local_path(path).parent.is_dir()
    except (OSError, UsageError, ValueError):
        return False


def is_picture(path: str) -> bool:
    """Whether a name ends as those of pictures do; what the file holds is not looked at."""
    local = "://" not in path or path.lower().startswith("file://")
    return local and Path(path).suffix.lower() in PICTURES


def unescaped(written: str) -> str:
    """A path without the backslashes a shell needs; one of Windows as it is."""
    return written if WINDOWS.match(written) else re.sub(r"\\(.)", r"\1", written)


def split_paths(text: str) -> list[str]:
    """The paths in the argument of `/image` or `/read`, quoted, escaped or plain."""
    text = text.strip(" \t\r\n")
    if not text or exists(text):
        return [text] if text else []
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if WINDOWS.search(text):
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError:  # an odd quote is part of the name
        return [text]


def dropped(text: str) -> list[str] | None:
    """The pictures that a paste is made of, as a terminal writes files that are dropped on it.

    None for any other paste. Whether the files are there is not asked for paths with a folder.
    """
    if len(text) > LONGEST_DROP:
        return None
    paths = split_paths(text)
    meant = [is_picture(path) and bool(PATH_FORM.match(path) or exists(path)) for path in paths]
    return paths if paths and all(meant) else None


def expand(written: str) -> list[str]:
    """The files that a name with wildcards stands for, hidden ones left out as a shell does.

    Raises:
        UsageError: none, or too many.
    """
    if exists(written) or not has_magic(written):
        return [written]
    found = iglob(str(local_path(written)), recursive=True)  # noqa: PTH207 (Path.glob: no absolute)
    names = list(islice((name for name in found if exists(name)), MOST_FILES + 1))
    if not names:
        raise UsageError(f"no file matches {printable(written)}", "** reaches into folders")
    if len(names) > MOST_FILES:
        raise UsageError(
            f"{printable(written)} matches more than {MOST_FILES} files", "read fewer at a time"
        )
    return sorted(names)
