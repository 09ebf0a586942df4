"""The command `qwen35`, also as `python -m qwen35cli`: what surrounds the call itself."""

import signal
import sys


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
    sys.exit(code)


if __name__ == "__main__":
    main()
