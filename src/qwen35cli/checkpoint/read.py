"""Loading the weights of an opened checkpoint into a model that was built on the meta device.

On a CPU they stay where they are: the files are mapped, private to the process, so loading costs no
memory but the system's own cache of the files, and no time but the check. The price: what the
system drops from that cache, in a long pause or for want of memory, is read from the disk again;
and a file that is cut short while it is in use ends the process (`kernels/cpu` says so in one
line). Numbers of a tensor must have the format of the parameter, or one that widens to it without
loss (BF16 or F16 to F32); and they must be finite.
"""

import mmap
import sys
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qwen35cli.errors import ModelError
from qwen35cli.quant.leaves import Quantized, refused
from qwen35cli.quant.swap import prepare, swap

from .dtypes import SPELLING
from .header import Stored
from .names import CONFIG, HEAD, OPTIONAL, VISION, ours, theirs
from .opened import Checkpoint, listed
from .strict_json import FETCH_AGAIN

# Where a config and weights that are each sound do not belong together.
OF_ANOTHER = (
    f"{CONFIG} and the weights are of different checkpoints, or another program saved them under "
    "names of its own: fetch the checkpoint again, or save it as the original is"
)

BLOCK_BYTES = 2**20  # read and checked at once: fits a core's cache
READERS = 2  # one copies while the other waits for the disk; two fill most memories' bandwidth

WIDENED = {torch.float32: (torch.bfloat16, torch.float16)}
# The patterns from which on a number is infinite or not a number, seen as an integer: of the
# positive ones as a signed, of the negative ones as an unsigned.
NOT_FINITE = {
    torch.bfloat16: (np.int16, 0x7F80, np.uint16, 0xFF80),
    torch.float16: (np.int16, 0x7C00, np.uint16, 0xFC00),
    torch.float32: (np.int32, 0x7F80_0000, np.uint32, 0xFF80_0000),
}


def swap_leaves(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give `model`, on the meta device, the quantized leaves that `checkpoint` has tensors for.

    What belongs to a part that the model was built without is passed over.

    Raises:
        ModelError: a scheme has no matrix in the model, or does not suit it.
    """
    omitted = _omitted(theirs(name) for name, _ in model.named_parameters())
    schemes = {
        ours(name): scheme
        for name, scheme in checkpoint.schemes.items()
        if not name.startswith(omitted)
    }
    # bitsandbytes knows no 8-bit matrices beside those of 4: they stay whole in the file.
    swap(model, schemes, whole=checkpoint.format == "nf4")


def load_weights(model: nn.Module, checkpoint: Checkpoint, device: torch.device) -> None:
    """Fill `model`, built on the meta device, with the tensors of `checkpoint`, on `device`.

    Every parameter needs its tensor and every tensor its parameter, but for those of the vision
    tower or the MTP layer where the model was built without that part. On a CPU the parameters lie
    in the mapped files; on a GPU a few tensors at a time pass through the machine's memory.

    Raises:
        ModelError: names, shapes or formats differ from the model's; a number is not finite; a file
            changed since it was opened.
    """
    swap_leaves(model, checkpoint)
    leaves = {name: leaf for name, leaf in model.named_modules() if isinstance(leaf, Quantized)}
    parameters = _in_files(model, leaves)
    wanted = _matched(parameters, checkpoint.tensors)
    regions = {path: _map(path) for path in {stored.path for stored in wanted.values()}}

    def read(name: str) -> Tensor:
        stored = wanted[name]
        return _read(stored, regions[stored.path]).to(device, parameters[name].dtype)

    with ThreadPoolExecutor(READERS, "weights") as readers:
        try:
            state = dict(zip(wanted, readers.map(read, wanted), strict=True))
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    for path, leaf in leaves.items():
        tensors = {name: state.pop(f"{path}.{name}") for name in leaf.file_layout()}
        try:
            made = leaf.from_file(tensors)
        except ValueError as error:
            raise refused(theirs(path), error) from None
        kept = {tensor.untyped_storage().data_ptr() for tensor in made.values()}
        for name, tensor in tensors.items():
            if tensor.untyped_storage().data_ptr() not in kept:
                stored = wanted[f"{path}.{name}"]
                _release(stored, regions[stored.path])
        state |= {f"{path}.{name}": tensor for name, tensor in made.items()}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    prepare(model)


def check_tensors(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose tensors are not those of `model`, without reading them.

    Raises:
        ModelError: names, shapes or formats differ.
    """
    _matched(dict(model.named_parameters()), checkpoint.tensors)


def _in_files(model: nn.Module, leaves: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """What the files hold of `model`, on the meta device, by its names."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    for path, leaf in leaves.items():
        for name in leaf.held:
            del parameters[f"{path}.{name}"]
        parameters |= {f"{path}.{name}": meta for name, meta in leaf.file_layout().items()}
    return parameters


def _omitted(names: Iterable[str]) -> tuple[str, ...]:
    """Prefixes of the parts that a model of these checkpoint names was built without."""
    names = list(names)
    return tuple(part for part in OPTIONAL if not any(name.startswith(part) for name in names))


def _matched(parameters: Mapping[str, Tensor], tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The stored tensor of each parameter, by the parameter's name, in the order of the files."""
    names = {theirs(name): name for name in parameters}
    omitted = _omitted(names)
    unexpected = {n for n in tensors.keys() - names.keys() if not n.startswith(omitted)}
    missing = names.keys() - tensors.keys()
    if missing or unexpected:
        raise ModelError(
            f"the tensors are not those that {CONFIG} describes: "
            f"{listed('missing', missing)}; {listed('unexpected', unexpected)}",
            _disagreement(missing, unexpected, tensors),
        )
    wanted = {name: tensors[stored] for stored, name in names.items()}
    for name, stored in wanted.items():
        parameter = parameters[name]
        if stored.shape != tuple(parameter.shape):
            raise ModelError(
                f"{stored.name} has the shape {list(stored.shape)}, "
                f"{CONFIG} asks for {list(parameter.shape)}",
                OF_ANOTHER,
            )
        if stored.dtype not in (parameter.dtype, *WIDENED.get(parameter.dtype, ())):
            raise ModelError(
                f"{stored.name} is stored as {SPELLING[stored.dtype]}, "
                f"it must be {SPELLING[parameter.dtype]}",
                "save the checkpoint in bfloat16; numbers are not rounded in silence",
            )
    return dict(sorted(wanted.items(), key=lambda item: (item[1].path, item[1].offset)))


def _disagreement(missing: Set[str], unexpected: Set[str], tensors: Iterable[str]) -> str:
    """What is the matter where config and files disagree so, and what to change."""
    if not missing and unexpected == {HEAD}:
        return (
            f"{CONFIG} says that the output head is the token embedding: if {HEAD} is the head, "
            "set every tie_word_embeddings there to false, else save the checkpoint without it"
        )
    if missing == {HEAD} and not unexpected:
        return (
            f"{CONFIG} says that the output head is not the token embedding: if it is, set every "
            "tie_word_embeddings there to true, else fetch the checkpoint again"
        )
    of_vision = all(name.startswith(VISION) for name in missing)
    if of_vision and not unexpected and not any(name.startswith(VISION) for name in tensors):
        return (
            f"the files hold no vision tower: set vision_config to null in {CONFIG} for text "
            "alone, else fetch the checkpoint with its tower"
        )
    return OF_ANOTHER


def _read(stored: Stored, region: mmap.mmap) -> Tensor:
    """The tensor as it lies in the mapping of its file, checked block by block in the cache."""
    if stored.offset + stored.nbytes > len(region):
        raise stored.cut_short()
    view = np.frombuffer(region, np.uint8, stored.nbytes, stored.offset)
    if stored.offset % stored.dtype.itemsize:
        view = view.copy()  # torch needs its numbers aligned
    for start in range(0, stored.nbytes, BLOCK_BYTES):
        _check_finite(view[start : start + BLOCK_BYTES], stored)
    return torch.from_numpy(view).view(stored.dtype).view(stored.shape)


def _map(path: Path) -> mmap.mmap:
    """The whole file as memory that is private: writing to it changes nothing on the disk."""
    try:
        with path.open("rb") as file:
            region = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:  # ValueError: empty by now
        why = error.strerror if isinstance(error, OSError) else "it is empty"
        raise ModelError(f"{path} cannot be read: {why}", FETCH_AGAIN) from None
    if sys.platform != "win32":
        region.madvise(mmap.MADV_WILLNEED)
    return region


def _release(stored: Stored, region: mmap.mmap) -> None:
    """Give back the memory of a tensor that was read and is not needed: whole pages of its file."""
    first = -(-stored.offset // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (stored.offset + stored.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0 and sys.platform != "win32":
        region.madvise(mmap.MADV_DONTNEED, first, length)


def _check_finite(block: "np.ndarray[Any, Any]", stored: Stored) -> None:
    """Two sweeps for a maximum: nothing is allocated, no thread is started."""
    if stored.dtype not in NOT_FINITE:
        return
    signed, positive, unsigned, negative = NOT_FINITE[stored.dtype]
    if block.view(signed).max() >= positive or block.view(unsigned).max() >= negative:
        raise ModelError(
            f"{stored.name} holds numbers that are not finite (NaN or infinity)", FETCH_AGAIN
        )
