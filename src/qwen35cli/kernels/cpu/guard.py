"""What happens when a mapped file of weights is cut short while it is in use."""

import ctypes

from .native import built


def guard_mapping(message: str, exit_code: int) -> None:
    """Have SIGBUS say `message` and end the process with `exit_code`.

    Without compiled kernels nothing changes: the system then ends the process in its own words.
    """
    said = message.encode(errors="backslashreplace")[:511]
    for path in built().values():
        ctypes.CDLL(str(path)).guard_mapping(said, exit_code)
        return
