"""The command `qwen35`, also as `python -m qwen35cli`: what surrounds the call itself."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from qwen35cli.errors import InterruptedByUser


def main() -> None:
    """The entry point. While Python is still importing, Ctrl-C just ends it, without a trace."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    if before is signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGINT, before)
    from qwen35cli.cli import run, settings

    settings.wait_briefly()
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leave(lambda: run(sys.argv[1:]))


def leave(call: Callable[[], int]) -> NoReturn:
    """End with the exit code of a call, whatever Ctrl-C does while that ends, or behind it."""
    try:
        code = call()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = InterruptedByUser.exit_code
    # At once where torch was loaded: half a second of tearing down what the system frees. Or where
    # it was interrupted: of some places where that may come, `python -m` would give no code at all.
    if "torch" not in sys.modules and code != InterruptedByUser.exit_code:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):  # every write was flushed: what fails here was told
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
