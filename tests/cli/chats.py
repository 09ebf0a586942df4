"""A chat in a pseudo-terminal: keys go in, and what an emulated terminal then shows comes out.

`python -m tests.cli.chats SCRIPT.json ARGUMENTS…` is `tests.scripted` with a model that can be
held: before each piece of a prompt while the file `hold-prompt` is there, and before each piece of
the answer that it reads in the background while `hold-answer` is. In a script, what begins with
`WHOLE` is one token.
"""

import os
import re
import signal
import sys
import termios
import threading
import time
from pathlib import Path
from typing import ClassVar

import pexpect
import pyte

from qwen35cli.__main__ import leave
from tests import fakes, scripted
from tests.scripted import PATIENCE

DEMO = (sys.executable, "-m", "qwen35cli", "chat", "--model", "demo", "--temp", "0", "--ctx", "8k")
WHOLE = "WHOLE "
PLACEHOLDER = "Type a message"  # dim text: the editor is ready and holds nothing
CTRL_C, CTRL_D, CTRL_J, CTRL_O, CTRL_V = "\x03\x04\x0a\x0f\x16"
ESCAPE = re.compile(
    r"\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()].|[^\[\]()])"
)
CUT = re.compile(r"(?:\x1b(?:\[[0-9;:?<=>]*[ -/]*|\][^\x07\x1b]*\x1b?|[()])?)?\Z")
# Colours, the cursor (\b as well), wrapping, bracketed paste: what we and prompt_toolkit send.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[A-DJK]|6n|\?(?:1|7|12|25|2004)[hl])")


def environment(folder, **more):
    """Variables of a chat that keeps all it keeps in `folder`."""
    kinds = ("DATA", "CACHE", "STATE")
    own = {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in kinds}
    found = scripted.environment(TERM="xterm-256color", **own)
    for name in ("QWEN35_NO_SAVE", "NO_COLOR", "FORCE_COLOR", "VISUAL", "EDITOR", "PAGER"):
        found.pop(name, None)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY", "COLUMNS", "LINES"):
        found.pop(name, None)
    found |= more
    return {name: value for name, value in found.items() if value is not None}


class _Screen(pyte.HistoryScreen):
    """Answers where the cursor is, as a terminal does."""

    def __init__(self, columns, lines, reply):
        super().__init__(columns, lines, history=10_000)
        self._reply = reply

    def write_process_input(self, data):
        self._reply(data)


def with_demo(folder, *arguments, **more):
    """A chat with the demo checkpoint, which takes the likeliest token."""
    return Chat([*DEMO, *arguments], folder, **more)


def with_script(folder, turns, *arguments, ctx=4_096, thinking=False, **more):
    """A chat with a model that says what it is told; each byte is a token."""
    line = scripted_line(folder, turns, *arguments, ctx=ctx, thinking=thinking)
    return Chat(line, folder, **more)


def scripted_line(folder, turns, *arguments, **more):
    """The command line of that."""
    line = scripted.command(folder, turns, "chat", *arguments, **more)
    (folder / "config.json").write_text("{}")  # of the checkpoint, as far as there is one
    return [*line[:2], "tests.cli.chats", *line[3:]]


class Chat:
    """A running chat and its terminal; as a context it ends with it.

    Attributes:
        raw: all that came, escapes included.
        said: the same without escapes and carriage returns.
    """

    def __init__(self, line, folder, *, columns=160, lines=50, **variables):
        self.raw = self.said = self._cut = ""
        self._at = 0  # how far of `said` was looked at
        self._prompt = -1  # the row, of all there ever were, of the prompt that was answered last
        self._process = pexpect.spawn(
            line[0],
            line[1:],
            env=environment(folder, **variables),
            cwd=str(folder),
            encoding="utf-8",
            codec_errors="surrogateescape",
            dimensions=(lines, columns),
        )
        self._process.delaybeforesend = None
        self._screen = _Screen(columns, lines, self._process.send)
        self._stream = pyte.Stream(self._screen)
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._process.isalive():  # pexpect gives up on what is not gone within 0.1 s
            os.kill(self.pid, signal.SIGKILL)
            self._process.ptyproc.wait()
        self._process.close()

    # -- what is seen -----------------------------------------------------------------------------

    def rows(self):
        """All rows that the terminal shows or has scrolled away, without the empty ones."""
        return [row for row in self._rows(0) if row]

    def _rows(self, first):
        screen = self._screen
        rows = [*screen.history.top, *(screen.buffer[y] for y in range(screen.lines))]
        return [self._text(row) for row in rows[first:]]

    def _text(self, row):
        return "".join(row[x].data for x in range(self._screen.columns)).rstrip()

    def screen(self):
        """The rows of the screen, down to the last that is not empty."""
        return "\n".join(self._rows(-self._screen.lines)).rstrip().split("\n")

    @property
    def _row(self):
        return len(self._screen.history.top) + self._screen.cursor.y

    def _read(self, seconds=0.02):
        """Take in what the program wrote; False once it is gone."""
        try:
            text = self._process.read_nonblocking(65_536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += text
        whole = self._cut + text
        self._cut = CUT.search(whole)[0]  # the beginning of an escape, or nothing
        whole = whole.removesuffix(self._cut) if self._cut else whole
        self.said += ESCAPE.sub("", whole).replace("\r", "")
        self._stream.feed(text)
        return True

    def until(self, seen, what):
        """Read until `seen()` gives something true, and give that."""
        end = time.monotonic() + PATIENCE
        alive = True
        while not (found := seen()):
            if not alive or time.monotonic() > end:
                screen = "\n".join(self.rows())
                raise AssertionError(f"never saw {what!r}; there is:\n{screen}")
            alive = self._read()
        return found

    def sees(self, text):
        """Wait for `text`, or for a match of a pattern, behind all that was seen before."""
        pattern = re.compile(re.escape(text)) if isinstance(text, str) else text
        found = self.until(lambda: pattern.search(self.said, self._at), text)
        self._at = found.end()
        return found

    def shows(self, text):
        """Wait until the screen shows `text` in one row."""
        self.until(lambda: any(text in row for row in self._rows(-self._screen.lines)), text)

    def ready(self, line="", *, again=False):
        """Wait for an input line, empty or beginning with `line`; what stands above it.

        It has to be another than the one that was answered last, or, with `again`, that one.
        """
        begins = ">>> " + (line or PLACEHOLDER)[: self._screen.columns - 5]

        def prompt():
            """The row in which the input line begins, where that is as it should be."""
            screen, row = self._screen, self._row
            rows = self._rows(row - screen.cursor.y)
            y = next((y for y in range(screen.cursor.y, -1, -1) if rows[y].startswith(">>> ")), -1)
            found = row - screen.cursor.y + y
            there = found >= self._prompt if again else found > self._prompt
            empty = y == screen.cursor.y and screen.cursor.x == 4
            if y < 0 or not there or not rows[y].startswith(begins) or empty == bool(line):
                return None
            return (found,)

        (found,) = self.until(prompt, begins)
        self._idle()
        self._at = len(self.said)
        above = self._rows(self._prompt + 1)[: found - self._prompt - 1]
        return [row for row in above if row]

    def _idle(self):
        """Wait until it only waits: what it does in the background is done, or held."""
        tasks = Path(f"/proc/{self.pid}/task")
        seen = 0
        while tasks.is_dir() and seen < 2:
            self._read(0.002)
            states = [_state(task) for task in tasks.iterdir()]
            seen = seen + 1 if set(states) <= {"S", ""} else 0

    # -- what is done -----------------------------------------------------------------------------

    def type(self, keys):
        """Press keys; what is waited for from now on comes after them."""
        self._at = len(self.said)
        self._process.send(keys)

    def send(self, text):
        """Type `text` into an empty line and press Enter."""
        self.ready(again=True)
        self._prompt = self._row
        self.type(text + "\r")

    def say(self, text, then=""):
        """The same; what came of it, once there is an input line again, which begins with `then`.

        Where the line is not empty it is left as it is.
        """
        self.send(text)
        return self.ready(then)

    def enter(self, then=""):
        """Press Enter on a line that is not empty; what came of it."""
        self._prompt = self._row
        self.type("\r")
        return self.ready(then)

    def paste(self, text):
        """Paste, as a terminal does that marks where pastes begin and end."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def clear(self):
        """Take away what stands in the line."""
        self.type(CTRL_C)
        self.ready(again=True)

    def resize(self, columns, lines=50):
        """Give the terminal another size, and let the program take note of it."""
        self._screen.resize(lines, columns)
        self._process.setwinsize(lines, columns)
        self._idle()

    def interrupt(self):
        """Press Ctrl-C, once the program waits: for keys, or as its script says."""
        self._idle()
        self.type(CTRL_C)

    def signal(self, number):
        """Send a signal, then."""
        self._idle()
        os.kill(self.pid, number)

    def hang_up(self):
        """Close the terminal, once the program waits; then for the end."""
        self._idle()
        self._process.ptyproc.fileobj.close()
        self._process.ptyproc.wait()

    def end(self):
        """The exit code, once it has ended."""
        self.until(lambda: not self._read(), "the end")
        self._process.wait()
        self.restored()
        return self._process.exitstatus

    def leave(self, line=""):
        """Leave by a command, or by Ctrl-D on an empty line; the exit code."""
        if line:
            self.send(line)
        else:
            self.ready(again=True)
            self.type(CTRL_D)
        return self.end()

    # -- the terminal -----------------------------------------------------------------------------

    def modes(self, *, quiet=None):
        """Whether the terminal neither echoes nor waits for whole lines; with `quiet`: is to."""
        descriptor, flags = self._process.child_fd, termios.ECHO | termios.ICANON
        modes = termios.tcgetattr(descriptor)
        if quiet is not None:
            modes[3] = modes[3] & ~flags if quiet else modes[3] | flags
            termios.tcsetattr(descriptor, termios.TCSANOW, modes)
        return not modes[3] & flags

    def restored(self):
        """Check that the terminal is as it was: typing is shown, the cursor too, pastes plain."""
        modes = termios.tcgetattr(self._process.child_fd)[3]
        assert modes & termios.ECHO and modes & termios.ICANON and modes & termios.ISIG
        for mode, last in (("2004", "l"), ("25", "h"), ("7", "h")):
            switched = re.findall(rf"\x1b\[\?{mode}([hl])", self.raw)
            assert not switched or switched[-1] == last, mode

    def foreign(self):
        """What was sent beside text that is neither ours nor prompt_toolkit's."""
        rest = OWN.sub("", self.raw)
        return re.findall(
            r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069].{,8}", rest
        )


def _state(task):
    """What a thread does: S for sleeping; nothing where it is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class _Tokenizer(fakes.ByteTokenizer):
    """Of bytes, and of whole pieces of a script."""

    pieces: ClassVar[list[bytes]] = []

    def __init__(self):
        super().__init__()
        self._first = self.vocab_size
        self.vocab_size += 1_000

    def token_bytes(self, token):
        piece = token - self._first
        return self.pieces[piece] if piece >= 0 else super().token_bytes(token)

    def is_added(self, token):
        return token < self._first and super().is_added(token)


class _Decoder(fakes.ScriptedDecoder):
    def prefill(self, prompt, *, logits=True):
        ours = threading.current_thread() is threading.main_thread()
        hold = Path("hold-prompt" if ours else "hold-answer")
        for progress in super().prefill(prompt, logits=logits):
            while hold.exists() and not (ours and fakes._stop_requested()):
                time.sleep(0.005)
            yield progress

    def _tokens(self, turn):
        end = self._tokenizer.special.im_end
        for item in turn:
            if item.startswith(WHOLE):
                text = item.removeprefix(WHOLE)
                self._tokenizer.pieces.append(text.encode("utf-8", "surrogateescape"))
                yield self._tokenizer.vocab_size - 1_000 + len(self._tokenizer.pieces) - 1
            else:
                yield from (token for token in super()._tokens([item]) if token != end)
        yield end


if __name__ == "__main__":
    fakes.ByteTokenizer, fakes.ScriptedDecoder = _Tokenizer, _Decoder
    leave(lambda: scripted.main(*sys.argv[1:]))
