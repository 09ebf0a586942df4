"""What can go wrong for a user, as exceptions that carry a hint and an exit code.

Qwen35Error
├── UsageError         2    unknown value, missing input file, nothing to answer
├── ModelError         3    checkpoint missing, damaged, hostile, or not a Qwen3.5
├── DeviceError        4    no usable GPU where one was asked for
├── DoesNotFitError    5    memory or disk too small, before or while running
├── ContextFullError   6    prompt longer than the context
├── SchemaError        7    the answer does not satisfy the schema
└── InterruptedByUser  130  Ctrl-C or SIGTERM
"""

from typing import ClassVar


class Qwen35Error(Exception):
    """A failure the user can act on: what failed, with numbers, and the next command to type."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Qwen35Error):
    """The call itself cannot be carried out: a bad value, a missing file, nothing to answer."""

    exit_code = 2


class ModelError(Qwen35Error):
    """The checkpoint is missing, damaged, hostile, or not a dense Qwen3.5."""

    exit_code = 3


class DeviceError(Qwen35Error):
    """No usable device of the kind that was asked for."""

    exit_code = 4


class DoesNotFitError(Qwen35Error):
    """Memory, or the disk, does not suffice for what was asked."""

    exit_code = 5


class ContextFullError(Qwen35Error):
    """The prompt has more tokens than the context."""

    exit_code = 6


class SchemaError(Qwen35Error):
    """The answer does not satisfy the schema that was asked for."""

    exit_code = 7


class InterruptedByUser(Qwen35Error):
    """Ctrl-C or SIGTERM ended the command."""

    exit_code = 130
