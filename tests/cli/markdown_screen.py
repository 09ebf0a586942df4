"""What the tests of Markdown share: a document rendered, and what a terminal makes of it."""

import re

import pyte

from qwen35cli.cli.markdown import Markdown

SGR = re.compile("\x1b\\[[0-9;]*m")
OFF = "\x1b[0m"


def render(text, columns=80, *, color=True, size=None):
    """All that is written for `text`, fed in pieces of `size` characters."""
    out = []
    markdown = Markdown(out.append, lambda: columns, color=color)
    size = size or max(1, len(text))
    for start in range(0, len(text), size):
        markdown.feed(text[start : start + size])
    markdown.end()
    return "".join(out)


def plain(text, columns=80, **keywords):
    """The same without escapes."""
    return SGR.sub("", render(text, columns, **keywords))


def marked(text, columns=80, **keywords):
    """The same with `{1:bold}` for escapes, and neighbours of one style joined."""
    shown = re.sub("\x1b\\[([1-9][0-9;]*)m(.*?)\x1b\\[0m", r"{\1:\2}", render(text, columns))
    assert "\x1b" not in shown
    joined = None
    while joined != shown:
        joined, shown = shown, re.sub(r"\{([0-9;]+):([^{}]*)\}\{\1:", r"{\1:\2", shown)
    return shown


def screen(output, columns, lines=200):
    """The lines that an emulated terminal shows after `output`."""
    emulator = pyte.Screen(columns, lines)
    pyte.Stream(emulator).feed(output.replace("\n", "\r\n"))
    return "\n".join(line.rstrip() for line in emulator.display).rstrip("\n").split("\n")
