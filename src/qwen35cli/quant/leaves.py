"""Leaves of the model whose matrix is quantized: parameters with the names of the file, and an op.

They are made on the meta device and filled by the loader. `operand` is what the ops take.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qwen35cli.errors import ModelError
from qwen35cli.kernels import Kernels
from qwen35cli.kernels.operands import NF4, Int4, Int8, Weight

from . import int4, int8, nf4
from .codec import row_blocks

QUANTIZE_AGAIN = "the file is damaged or was tampered with: quantize the checkpoint again"


class Quantized(nn.Module):
    """A matrix (N, K) held in the tensors of a scheme."""

    def __init__(
        self,
        shape: tuple[int, int],
        kernels: Kernels,
        held: Mapping[str, Tensor],
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.shape = shape
        self.held = tuple(held)  # names of the parameters that are the matrix
        for name, meta in held.items():
            self.register_parameter(name, nn.Parameter(meta, requires_grad=False))
        self.bias = bias
        self._prepared: Weight | None = None

    @property
    def operand(self) -> Weight:
        """The matrix, for the ops."""
        return self.stored() if self._prepared is None else self._prepared

    def stored(self) -> Int4 | Int8 | NF4:
        """The matrix in the layout of the file."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Take the layout that the kernels compute with; once, after loading."""
        self._prepared = self.kernels.prepare(self.stored())

    def file_layout(self) -> dict[str, Tensor]:
        """What a file holds of the matrix, by what follows the leaf's name; meta tensors."""
        return {name: self.get_parameter(name) for name in self.held}

    def from_file(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters in `held`, from the tensors of `file_layout`.

        Raises:
            ValueError: they contradict the model or each other.
        """
        stated = tensors["weight_shape"].tolist()
        if stated != list(self.shape):
            raise ValueError(f"weight_shape is {stated}, config.json asks for {list(self.shape)}")
        return dict(tensors)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return self.kernels.linear(x, self.operand, self.bias)


class Int4Linear(Quantized):
    """Groups of 4-bit codes."""

    weight_packed: Tensor
    weight_scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        group: int,
        kernels: Kernels,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__(shape, kernels, int4.layout(shape, group), bias)
        self.group = group

    def stored(self) -> Int4:
        return Int4(self.weight_packed, self.weight_scale, self.shape, self.group)

    def prepare(self) -> None:
        super().prepare()
        operand = self._prepared
        if isinstance(operand, Int4) and operand.packed.dtype == self.weight_packed.dtype:
            # In another order: nothing reads that of the file any more, and its memory goes.
            self.weight_packed.data, self.weight_scale.data = operand.packed, operand.scale


class Int8Linear(Quantized):
    """Rows of 8-bit codes. `whole`: the file holds bf16, and the codes are made while loading."""

    weight_packed: Tensor
    weight_scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        kernels: Kernels,
        bias: nn.Parameter | None = None,
        *,
        whole: bool = False,
    ) -> None:
        super().__init__(shape, kernels, int8.layout(shape), bias)
        self.whole = whole

    def stored(self) -> Int8:
        return Int8(self.weight_packed, self.weight_scale, self.shape)

    def file_layout(self) -> dict[str, Tensor]:
        if self.whole:
            return {"weight": torch.empty(self.shape, dtype=torch.bfloat16, device="meta")}
        return super().file_layout()

    def from_file(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.whole:
            weight = tensors["weight"]
            return int8.encode(row_blocks(weight), self.shape, self.kernels, weight.device)
        return super().from_file(tensors)


class Int8Embedding(Int8Linear):
    """The table of the tokens; the output head too, where the checkpoint ties them."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) integers -> (..., K) float32."""
        return self.kernels.rows(self.operand, ids)


class NF4Linear(Quantized):
    """Indices into the table of nf4; the factors of the blocks as float32, no longer nested."""

    weight: Tensor
    weight_absmax: Tensor
    weight_quant_map: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        block: int,
        kernels: Kernels,
        bias: nn.Parameter | None = None,
    ) -> None:
        file = nf4.layout(shape, block)
        held = {
            "weight": file["weight"],
            "weight_absmax": torch.empty(file["weight.absmax"].shape, device="meta"),
            "weight_quant_map": file["weight.quant_map"],
        }
        super().__init__(shape, kernels, held, bias)
        self.block = block

    def stored(self) -> NF4:
        return NF4(self.weight, self.weight_absmax, self.weight_quant_map, self.shape, self.block)

    def file_layout(self) -> dict[str, Tensor]:
        return nf4.layout(self.shape, self.block)

    def from_file(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = nf4.operand(tensors, self.shape, self.block)
        return dict(zip(self.held, (found.packed, found.absmax, found.table), strict=True))


def refused(where: str, error: ValueError) -> ModelError:
    """What `from_file` says, for the user; `where` is the leaf's name in the checkpoint."""
    return ModelError(f"{where}: {error}", QUANTIZE_AGAIN)
