"""Opening a checkpoint folder, of which nothing is believed and nothing executed. Free of torch.

That checks the config and the header of every shard; `read` loads the weights.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import KEEP, Format, Plan, Scheme, assign, described

from .header import Stored, read_header
from .names import CONFIG, INDEX, SHARD_NAME, SINGLE
from .strict_json import FETCH_AGAIN, parse_object

MAX_JSON_BYTES = 4 * 2**20  # of config or index; those of the 27B have 0.1
SHOWN = 5  # names in a message


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose small files and headers were read and found sound; its weights were not."""

    folder: Path
    config: Config
    raw_config: Mapping[str, Any]
    tensors: Mapping[str, Stored]  # by their names in the checkpoint
    format: Format = "bf16"
    schemes: Mapping[str, Scheme] = field(default_factory=dict)  # of the quantized matrices

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config and headers of a folder in the Hugging Face layout.

    A config that promises an MTP layer of which the files hold nothing (many fine-tunes drop it) is
    read as one without.

    Raises:
        ModelError: a file is missing, damaged, hostile or not of a dense Qwen3.5.
    """
    folder = folder.resolve()
    raw = _read_json(folder, CONFIG)
    config = Config.from_dict(raw)
    tensors = _tensors(folder)
    if not any(name.startswith("mtp.") for name in tensors):
        config = replace(config, text=replace(config.text, mtp_num_hidden_layers=0))
    return Checkpoint(folder, config, raw, tensors, *described(raw))


def file_schemes(checkpoint: Checkpoint, plan: Plan) -> dict[str, Scheme]:
    """How the file holds each tensor, by its name in `checkpoint`, in the order of its files.

    In an nf4 file that is `keep` also for what becomes int8 when it is loaded: bitsandbytes has no
    8-bit matrices beside those of 4.

    Raises:
        UsageError: see `quant.plan.assign`.
        ModelError: `checkpoint` is quantized already.
    """
    if checkpoint.schemes:
        raise ModelError(
            f"{checkpoint.folder} is quantized already ({checkpoint.format})",
            "quantize the bfloat16 checkpoint",
        )
    tensors = sorted(checkpoint.tensors.values(), key=lambda t: (t.path, t.offset))
    schemes = assign(plan, {tensor.name: tensor.shape for tensor in tensors})
    if plan.format == "nf4":
        return {n: scheme if scheme.kind == "nf4" else KEEP for n, scheme in schemes.items()}
    return schemes


def _tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of all shards by name, as the index assigns them."""
    if not os.path.lexists(folder / INDEX):
        if os.path.lexists(folder / SINGLE):
            return {tensor.name: tensor for tensor in read_header(_file(folder, SINGLE))}
        raise ModelError(
            f"{folder} has no weights: neither {INDEX} nor {SINGLE}",
            "only safetensors are read, never *.bin or *.pt; fetch the checkpoint again",
        )
    assigned = _read_json(folder, INDEX).get("weight_map")
    if not isinstance(assigned, dict) or not all(isinstance(v, str) for v in assigned.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map of file names", FETCH_AGAIN)
    shards = sorted(set(assigned.values()))
    for shard in shards:
        if not SHARD_NAME.fullmatch(shard):
            raise ModelError(
                f"{INDEX} names the file {shard[:80]!r}; a shard is a plain *.safetensors name",
                FETCH_AGAIN,
            )
    tensors: dict[str, Stored] = {}
    for shard in shards:
        found = {tensor.name: tensor for tensor in read_header(_file(folder, shard))}
        expected = {name for name, file in assigned.items() if file == shard}
        if found.keys() != expected:
            raise ModelError(
                f"{shard} and {INDEX} disagree: {listed('missing', expected - found.keys())}; "
                + listed("not assigned to it", found.keys() - expected),
                FETCH_AGAIN,
            )
        tensors |= found
    return tensors


def _file(folder: Path, name: str) -> Path:
    """The regular file `name` of the folder, which may be a link within the repository's cache.

    Hugging Face's cache has `snapshots/REVISION/NAME` link to `blobs/HASH` beside `snapshots`; and
    that, where repositories share their blobs, to `blobs/xx/HASH` beside the repositories.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
        kind = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        why = error.strerror if isinstance(error, OSError) else "a circle of links"
        raise ModelError(f"{path} cannot be read: {why}", "fetch the checkpoint again") from None
    roots = [folder]
    if folder.parent.name == "snapshots":
        repo = folder.parent.parent
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


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = _file(folder, name)
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        size = path.stat().st_size
        raise ModelError(f"{path} has {size:,} bytes, allowed are {MAX_JSON_BYTES:,}", FETCH_AGAIN)
    return parse_object(text, str(folder / name))


def listed(what: str, names: Iterable[str]) -> str:
    """For a message: how many names there are, and the first of them."""
    listed = sorted(names)
    shown = ", ".join(listed[:SHOWN]) + (", …" if len(listed) > SHOWN else "")
    return f"{len(listed)} {what}" + (f" ({shown})" if listed else "")
