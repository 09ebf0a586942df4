"""Opening a checkpoint folder, of which nothing is believed and nothing executed. Free of torch.

That checks the config and the header of every shard; `read` loads the weights.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen35cli.errors import ModelError
from qwen35cli.model.config import Config
from qwen35cli.quant.plan import KEEP, Format, Plan, Scheme, assign, described

from .folder import read_json, reading, regular_file, weight_files
from .header import Stored, read_header
from .names import CONFIG, INDEX, SINGLE
from .strict_json import FETCH_AGAIN

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
    raw = read_json(folder, CONFIG)
    config = Config.from_dict(raw)
    tensors = read_tensors(folder)
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


def read_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of all shards by name, as the index assigns them.

    Raises:
        ModelError: a file is missing, damaged or hostile.
    """
    files = weight_files(folder)
    if not files:
        raise ModelError(
            f"{folder} has no weights: neither {INDEX} nor {SINGLE}",
            "only safetensors are read, never *.bin or *.pt; fetch the checkpoint again",
        )
    missing = [name for name in files if not os.path.lexists(folder / name)]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(files)} weight files ({missing[0]})",
            "fetch the checkpoint again",
        )
    tensors: dict[str, Stored] = {}
    for name, assigned in files.items():
        found = {tensor.name: tensor for tensor in _header(folder, name)}
        if assigned is not None and found.keys() != assigned:
            raise ModelError(
                f"{name} and {INDEX} disagree: {listed('missing', assigned - found.keys())}; "
                + listed("not assigned to it", found.keys() - assigned),
                FETCH_AGAIN,
            )
        tensors |= found
    return tensors


def _header(folder: Path, name: str) -> list[Stored]:
    """The tensors of one file. Messages call it as the folder does, wherever it links to."""
    path, target = folder / name, regular_file(folder, name)
    try:
        with reading(path):
            return read_header(target)
    except ModelError as error:
        raise ModelError(error.message.replace(str(target), str(path)), error.hint) from None


def listed(what: str, names: Iterable[str]) -> str:
    """For a message: how many names there are, and the first of them."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:SHOWN]) + (", …" if len(ordered) > SHOWN else "")
    return f"{len(ordered)} {what}" + (f" ({shown})" if ordered else "")
