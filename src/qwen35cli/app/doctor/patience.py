"""Questions to programs and disks that may never answer."""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

PATIENCE: Final = 5.0  # seconds for a program that is asked

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done:
    """What a program said; `code` is None where it was ended for taking too long."""

    code: int | None
    text: str


def ask(command: list[str], patience: float = PATIENCE) -> Done | None:
    """Run a program that answers at once. None: it is not there, or cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Done(None, "")
    except OSError:
        return None
    return Done(done.returncode, done.stdout)


def within(seconds: float, look: Callable[[], Result]) -> Result | None:
    """What `look` finds; None where it hangs, as on a disk that is gone.

    Raises: what it raises.
    """
    found: list[Result] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(look())
        except Exception as error:  # handed to who asked
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="look")
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    return found[0] if found else None
