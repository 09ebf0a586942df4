"""What a checkpoint on disk will take in memory, from the headers of its files."""

from collections.abc import Mapping

from qwen35cli.checkpoint.names import parameter_shapes
from qwen35cli.checkpoint.opened import Checkpoint, open_checkpoint
from qwen35cli.errors import UsageError
from qwen35cli.model.sizes import itemsize
from qwen35cli.quant.plan import KEEP, Format, recipe

from .estimate import Held, Model, held
from .source import resolve

SMALL_BYTES = 2**30  # a checkpoint below this runs as it is, and is quantized in a moment


def default_format(nbytes: int) -> Format:
    """What bf16 weights of so many bytes run as, where nothing else is asked for."""
    return "int4" if nbytes >= SMALL_BYTES else "bf16"


def model(name: str, quant: Format | None, group: int | None, revision: str | None) -> Model:
    """The checkpoint called `name`: `demo`, a folder, or a Hub id in the local cache.

    `quant`, `group`: what would be made of a bf16 one; None: int4, or nothing where it is small.

    Raises:
        UsageError: it is quantized already, in another format.
        ModelError: there is no such model, or it is not sound.
    """
    checkpoint = open_checkpoint(resolve(name, revision).folder)
    if checkpoint.format != "bf16":
        if quant not in (None, checkpoint.format) or group is not None:
            raise UsageError(
                f"{name} is quantized already, as {checkpoint.format}",
                "leave out --quant and --group, or name the bf16 checkpoint it was made from",
            )
        return of_checkpoint(name, checkpoint)
    wanted = quant or default_format(checkpoint.nbytes)
    return of_checkpoint(name, checkpoint, wanted, group)


def of_checkpoint(
    name: str, checkpoint: Checkpoint, quant: Format | None = None, group: int | None = None
) -> Model:
    """A checkpoint as it is, or a bf16 one as it would be in the format `quant`."""
    if checkpoint.format == "bf16":
        plan = recipe(quant or "bf16", group)
        shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
        weights: Mapping[str, Held] = held(shapes, plan)
        return Model(name=name, config=checkpoint.config, quant=plan.format, weights=weights)
    return Model(
        name=name,
        config=checkpoint.config,
        quant=checkpoint.format,
        weights=_quantized(checkpoint),
        from_bf16=False,
    )


def _quantized(checkpoint: Checkpoint) -> dict[str, Held]:
    """The tensors of the files summed by matrix; nf4 has other tensors in memory than in them."""
    found: dict[str, Held] = {}
    shapes = parameter_shapes(checkpoint.config)
    for name, stored in checkpoint.tensors.items():
        matrix = name
        for ending in (".weight_packed", ".weight_scale", ".weight_shape"):
            matrix = matrix.removesuffix(ending) + (".weight" if name.endswith(ending) else "")
        head, mark, _ = matrix.partition(".weight.")  # nf4: `.weight.absmax` and others
        matrix = head + ".weight" if mark else matrix
        scheme = checkpoint.schemes.get(matrix, KEEP)
        if checkpoint.format == "nf4" and scheme.kind != "keep":
            found[matrix] = Held(scheme, scheme.loaded_nbytes(shapes[matrix]))
            continue
        if scheme.kind == "keep":  # a number that is stored in bf16 may be held in float32
            count = stored.nbytes // stored.itemsize
            found[name] = Held(scheme, count * itemsize(name))
            continue
        before = found[matrix].nbytes if matrix in found else 0
        found[matrix] = Held(scheme, before + stored.nbytes)
    return found
