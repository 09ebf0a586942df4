"""The files of a checkpoint folder, of which nothing is believed. Free of torch."""

import os
import stat
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError

from .names import INDEX, SHARD_NAME, SINGLE, is_tensor_name
from .strict_json import FETCH_AGAIN, parse_object

MAX_JSON_BYTES = 4 * 2**20  # of config or index; those of the 27B have 0.1


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into a `ModelError` that says so."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}", "fetch the checkpoint again"
        ) from None


def regular_file(folder: Path, name: str) -> Path:
    """The file `name` of the folder, which may be a link within the repository's cache.

    Hugging Face's cache has `snapshots/REVISION/NAME` link to `blobs/HASH` beside `snapshots`; and
    that, where repositories share their blobs, to `blobs/xx/HASH` beside the repositories.

    Raises:
        ModelError: it is missing, a link to elsewhere, or no file.
    """
    path, home = folder / name, folder.resolve()
    with reading(path):
        target = Path(os.path.realpath(path, strict=True))
        kind = target.stat().st_mode
    roots = [home]
    if home.parent.name == "snapshots":
        repo = home.parent.parent
        roots.append(repo / "blobs")
        if repo.name.startswith("models--"):
            roots.append(repo.parent / "blobs")
    if not any(target.is_relative_to(root) for root in roots):
        raise ModelError(
            f"{path} links to {target}, outside the checkpoint",
            "copy the file into the folder if you trust it",
        )
    if not stat.S_ISREG(kind):
        raise ModelError(f"{path} is no regular file", FETCH_AGAIN)
    return target


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a small JSON file of the folder.

    Raises:
        ModelError: see `regular_file`; or it is too large, or holds something else.
    """
    path, target = folder / name, regular_file(folder, name)
    with reading(path), target.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ModelError(f"{path} has more than the {MAX_JSON_BYTES:,} bytes allowed", FETCH_AGAIN)
    return parse_object(text, str(path))


def weight_files(folder: Path) -> Mapping[str, Set[str] | None]:
    """The files that hold the weights, there or not, each with the tensors that the index assigns
    to it; None for a single file, which has no index. Empty where there is neither.

    Raises:
        ModelError: the index cannot be read, or names what is no shard or no tensor.
    """
    if not os.path.lexists(folder / INDEX):
        return {SINGLE: None} if os.path.lexists(folder / SINGLE) else {}
    assigned = read_json(folder, INDEX).get("weight_map")
    if not isinstance(assigned, dict) or not assigned:
        raise ModelError(f"{folder / INDEX} has no weight_map", FETCH_AGAIN)
    files: dict[str, set[str]] = {}
    for tensor, shard in assigned.items():
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise ModelError(
                f"{INDEX} names the file {str(shard)[:80]!r}; "
                "a shard is a plain *.safetensors name",
                FETCH_AGAIN,
            )
        if not is_tensor_name(tensor):
            raise ModelError(f"{INDEX}: {tensor[:80]!r} is not a tensor name", FETCH_AGAIN)
        files.setdefault(shard, set()).add(tensor)
    return dict(sorted(files.items()))
