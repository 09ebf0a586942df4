"""What stands in a typed message besides words: pictures by path, `@file`, `/no_think`.

Only what the user typed, or dropped on the terminal, attaches anything: text that was pasted, the
inside of files and what stands in backticks never does.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from qwen35cli.errors import UsageError
from qwen35cli.images.open import printable

from .paths import (
    PATH_FORM,
    PICTURES,
    exists,
    expand,
    in_a_folder,
    is_picture,
    split_paths,
    unescaped,
)
from .question import MAX_TEXT_BYTES, Document, Picture, Question, read_document

# What the names of text files end in: `@notes.txt` is meant as one, `@app.get` and `@anna.b` not.
TEXTS = (
    ".txt .md .rst .log .csv .tsv .json .jsonl .yaml .yml .toml .ini .cfg .conf .xml .html .css "
    ".scss .js .mjs .ts .jsx .tsx .vue .py .pyi .ipynb .c .h .cc .cpp .hpp .rs .go .java .kt "
    ".swift .rb .php .pl .lua .r .jl .scala .cs .sh .bash .zsh .fish .ps1 .bat .sql .tex .bib "
    ".diff .patch .srt .vtt .proto .graphql .tf"
)
# Blanks are ASCII: macOS puts a narrow no-break space into the names of screenshots.
GAP = re.compile(r"[ \t\r\n,;:(\[{<«“‘（「『《【：，。、；！？]+")
QUOTED = re.compile(r"""(@?)(["'])((?:(?!\2)[^\n])+)\2""")
PLAIN = re.compile(r"(@?)((?:\\[^\n]|[^ \t\r\n\\])+|\\)")
IMAGE_END = re.compile(rf"(?i)(?:{'|'.join(map(re.escape, sorted(PICTURES)))})(?![A-Za-z0-9_])")
AFTER_IMAGE = re.compile(r"""[,;:]|['’]s|[^\x00-\x7f]|[.!?)\]}>"'*]*\Z""")
INNER_FORM = re.compile(r"(?<=[^\x00-\x7f])(?:~?/|\.\.?/|(?i:file://)|[A-Za-z]:[\\/])")
PUNCTUATION = ".,;:!?)]}>\"'”’»*。，、；：！？）」』》】"
CODE = re.compile(r"(?s)```.*?(?:```|\Z)|`[^`\n]*`")
PLACEHOLDER = re.compile(r"\[image (\d{1,4})\]")
SWITCHES = {"/no_think": False, "/think": True}
LONGEST_PATH = 4_096
MOST_ENDS = 16  # at which one word is tried as a path
AS_TEXT = "in backticks it stays text"

OpenPicture = Callable[[str], Picture]


@dataclass(frozen=True, slots=True)
class Typed:
    """A message, taken apart."""

    question: Question
    opened: tuple[Picture, ...]  # found by path in the text, in its order
    read: tuple[Document, ...]  # found as @file in the text, in its order
    notes: tuple[str, ...]  # what might have been meant as a picture and stayed text
    thinking: bool | None  # what a typed /think or /no_think says about this message


@dataclass(slots=True)
class Draft:
    """What belongs to the message that is being written; each message begins with a new one."""

    leading: list[Picture] = field(default_factory=list)  # pictures with no place in the text
    documents: list[Document] = field(default_factory=list)
    _placed: dict[int, Picture] = field(default_factory=dict)
    _above: int = 0  # numbers of pictures that the text holds as words
    _pasted: list[str] = field(default_factory=list)

    def place(self, picture: Picture) -> str:
        """Attach a picture; it stands where the `[image N]` that is returned stands in the text."""
        number = max(self._placed, default=self._above) + 1
        self._placed[number] = picture
        return f"[image {number}]"

    def paste(self, text: str) -> None:
        """Take note of text that was pasted, so that paths in it attach nothing."""
        self._pasted.append(text)

    def message(self, line: str, open_picture: OpenPicture) -> Typed:
        """The message that `line` makes with what is attached.

        Pictures without a place come first, then the documents, then the text with its pictures
        where they stand. A placed picture whose `[image N]` was deleted is left out.

        Raises:
            UsageError: the text names a picture or a file that is not there or cannot be read.
        """
        pasted = "\n".join(self._pasted)
        text, thinking = soft_switch(line)
        if any(value == thinking and word in pasted for word, value in SWITCHES.items()):
            text, thinking = line, None
        reading = _Reading(dict(self._placed), pasted, open_picture)
        parts = _tidy(reading.parts(text))
        documents = [d.part.strip("\r\n") for d in (*self.documents, *reading.read)]
        last = () if parts else tuple(documents[-1:])
        before = documents if parts else documents[:-1]
        return Typed(
            Question((*self.leading, *(text + "\n\n" for text in before), *last, *parts)),
            tuple(reading.opened),
            tuple(reading.read),
            reading.notes(),
            thinking,
        )


def reopened(question: Question, thinking: bool | None = None) -> tuple[Draft, str]:
    """A message back in the line: what is attached to it, and its text with each `[image N]`.

    Nothing that its text held before is looked at again.

    Args:
        thinking: what it said of itself alone, which it says again.
    """
    written = [int(number) for number in PLACEHOLDER.findall(question.text)]
    draft = Draft(_above=max(written, default=0))
    draft.paste(question.text)
    line = "".join(part if isinstance(part, str) else draft.place(part) for part in question.parts)
    switches = [word for word, value in SWITCHES.items() if value == thinking]
    return draft, " ".join((line, *switches))


def read_files(argument: str) -> tuple[Document, ...]:
    """The text files that `/read` names, wildcards expanded.

    Raises:
        UsageError: no name, no match, too many files, or for the reasons of `read_document`.
    """
    names = [name for written in split_paths(argument) for name in expand(written)]
    if not names:
        raise UsageError("/read needs a file", "/read notes.txt, /read src/*.py")
    documents = tuple(map(read_document, names))
    if (total := sum(document.nbytes for document in documents)) > MAX_TEXT_BYTES:
        raise UsageError(
            f"{len(documents)} files hold {total:,} bytes of text, "
            f"more than {MAX_TEXT_BYTES // 2**20} MiB",
            "read fewer at a time",
        )
    return documents


def soft_switch(text: str) -> tuple[str, bool | None]:
    """The text without a typed `/no_think` or `/think`, and what it says; None where it has none.

    It counts as the last word, or the first, of a message that says something else too.
    """
    words = text.strip()
    for switch, value in SWITCHES.items():
        for pattern in (rf"\s{switch}\Z", rf"\A{switch}\s"):
            if rest := re.search(pattern, words):
                return (words[: rest.start()] + words[rest.end() :]).strip(), value
    return text, None


class _Reading:
    """One pass over a message: its parts, and what they attach."""

    def __init__(self, placed: dict[int, Picture], pasted: str, open_picture: OpenPicture) -> None:
        self._placed = placed
        self._known = {f"[image {number}]" for number in placed}
        self._pasted = pasted
        self._open = open_picture
        self.opened: list[Picture] = []
        self.read: list[Document] = []
        self._absent: list[str] = []
        self._empty: list[str] = []  # marks that no picture stands behind
        self._inert: list[str] = []  # pictures that are there, but in pasted text
        self._unread: list[str] = []  # files likewise

    def notes(self) -> tuple[str, ...]:
        notes = []
        if self._empty:
            notes.append(f"no picture is attached as {_list(self._empty)}: sent as text")
        if self._absent:
            notes.append(f"no picture at {_list(self._absent)}: sent as text")
        if self._inert:
            notes.append(f"{_list(self._inert)} in pasted text: not attached; /image attaches")
        if self._unread:
            notes.append(f"{_list(self._unread)} in pasted text: not read; /read reads")
        return tuple(notes)

    def parts(self, text: str) -> Iterator[str | Picture]:
        """The text with its pictures; what stands in backticks is left alone."""
        start = 0
        for code in CODE.finditer(text):
            yield from self._prose(text[start : code.start()])
            yield code[0]
            start = code.end()
        yield from self._prose(text[start:])

    def _prose(self, text: str) -> Iterator[str | Picture]:
        start = 0
        for place in PLACEHOLDER.finditer(text):
            if picture := self._placed.pop(int(place[1]), None):
                yield from self._words(text[start : place.start()])
                yield picture
                start = place.end()
            elif place[0] not in self._known and place[0] not in self._pasted:
                self._empty.append(place[0])
        yield from self._words(text[start:])

    def _words(self, text: str) -> Iterator[str | Picture]:
        position = 0
        while position < len(text):
            if match := GAP.match(text, position):
                yield match[0]
                position = match.end()
            elif (match := QUOTED.match(text, position)) and _is_unit(match[1], match[3]):
                mention = bool(match[1])
                typed = match[0] if mention else match[3]
                meant = self._meant(typed, match[3], mention=mention)
                yield match[0] if meant is None else meant
                position = match.end()
            else:
                match = PLAIN.match(text, position)
                assert match, "a word begins where no gap does"
                end, meant = self._word(match[2], mention=bool(match[1]))
                yield match[1] + match[2][:end] if meant is None else meant
                position = match.start(2) + end

    def _word(self, word: str, *, mention: bool) -> tuple[int, str | Picture | None]:
        """How far a word without blanks was read, and what stands for that; None for itself."""
        if mention:
            shortest = len(word.rstrip(PUNCTUATION))
            ends = list(range(shortest, min(len(word), shortest + MOST_ENDS) + 1))
        else:
            ends = _picture_ends(word)
        there = [end for end in ends if exists(unescaped(word[:end]))]
        if not (there or mention) and (start := _inner_path(word, ends)):
            return start, None
        for end in there[-1:] or ends[:1]:
            typed = "@" + word[:end] if mention else word[:end]
            meant = self._meant(typed, unescaped(word[:end]), mention=mention)
            if meant is not None:
                return end, meant
        return len(word), None

    def _meant(self, typed: str, path: str, *, mention: bool) -> str | Picture | None:
        """The picture at `path`, or the name of the file now read; None where it stays text."""
        pasted = typed in self._pasted
        if is_picture(path):
            if exists(path) and pasted:
                self._inert.append(path)
            elif mention or PATH_FORM.match(path) or exists(path) or in_a_folder(path):
                return None if pasted else self._picture(path)
            else:
                self._absent.append(path)
        elif mention and pasted:
            if exists(path):
                self._unread.append(path)
        elif mention and (exists(path) or _means_file(path)):
            self.read.append(self._document(path))
            return self.read[-1].name
        return None

    def _picture(self, path: str) -> Picture:
        with _hint_to_keep_as_text():
            self.opened.append(self._open(path))
        return self.opened[-1]

    def _document(self, path: str) -> Document:
        with _hint_to_keep_as_text():
            return read_document(path)


@contextmanager
def _hint_to_keep_as_text() -> Iterator[None]:
    """Says how a path is written that was not meant as one, unless a better name is known."""
    try:
        yield
    except UsageError as error:
        if error.hint.startswith("did you mean"):
            raise
        hint = f"{error.hint}; {AS_TEXT}" if error.hint else AS_TEXT
        raise UsageError(error.message, hint) from error


def _is_unit(at: str, quoted: str) -> bool:
    """Whether what stands in quotes is one name, not several words."""
    if at:
        return True
    return is_picture(quoted) and bool(
        PATH_FORM.match(quoted) or " " not in quoted or exists(quoted)
    )


def _means_file(path: str) -> bool:
    """Whether a name behind an `@` that is not there is a file's, not a person's."""
    return bool(PATH_FORM.match(path)) or Path(path).suffix.lower() in TEXTS.split()


def _picture_ends(word: str) -> list[int]:
    """Where in a word the name of a picture may end."""
    found = IMAGE_END.finditer(word, 0, LONGEST_PATH)
    ends = (match.end() for match in found if AFTER_IMAGE.match(word, match.end()))
    return list(islice(ends, MOST_ENDS))


def _inner_path(word: str, ends: list[int]) -> int | None:
    """Where a path begins inside of a word, in scripts that are written without blanks."""
    if not ends or PATH_FORM.match(word):
        return None
    for form in islice(INNER_FORM.finditer(word, 0, ends[-1]), MOST_ENDS):
        start = form.start()
        if form[0] != "/" or any(exists(unescaped(word[start:end])) for end in ends):
            return start
    return None


def _tidy(pieces: Iterable[str | Picture]) -> tuple[str | Picture, ...]:
    """Texts that touch made one; no blanks of the line between a picture and an end or another."""
    parts: list[str | Picture] = []
    for pictures, run in groupby(pieces, lambda piece: isinstance(piece, Picture)):
        found = list(run)
        parts += found if pictures else ["".join(map(str, found))]
    parts = [part for part in parts if isinstance(part, Picture) or part.strip()]
    first = next((i for i, part in enumerate(parts) if isinstance(part, str)), 0)
    for i, part in enumerate(parts):
        if isinstance(part, str) and len(parts) > 1:
            part = part.lstrip() if i == first > 0 else part
            parts[i] = part.rstrip() if i == len(parts) - 1 else part
    return tuple(parts)


def _list(names: list[str]) -> str:
    shown = list(dict.fromkeys(map(printable, names)))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
