"""The command `qwen35`, also as `python -m qwen35cli`: what surrounds the call itself."""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> None:
    """The entry point. While Python is still importing, Ctrl-C just ends it, without a trace."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    if before is signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGINT, before)
    from qwen35cli.cli import run

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to interrupt
    _end(code)


def _end(code: int) -> NoReturn:
    """End at once where torch was loaded: half a second of tearing down what the system frees."""
    if "torch" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):  # every write was flushed: what fails here was told
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
