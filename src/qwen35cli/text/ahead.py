"""A tokenizer that is parsed while torch is being imported: 0.8 s of the start, at no cost.

Both take one core and neither needs the other; parsing runs outside Python's lock.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .tokenizer import Tokenizer

_parsing: dict[Path, Future[Tokenizer]] = {}


def read_ahead(folder: Path) -> None:
    """Begin to read the tokenizer of `folder`; what fails is raised by `tokenizer_of`."""
    pool = ThreadPoolExecutor(1, "tokenizer")
    _parsing[folder] = pool.submit(Tokenizer.from_folder, folder)
    pool.shutdown(wait=False)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of `folder`, from `read_ahead` where that was called for it.

    Raises:
        ModelError: see `Tokenizer.from_folder`.
    """
    parsing = _parsing.pop(folder, None)
    return parsing.result() if parsing is not None else Tokenizer.from_folder(folder)
