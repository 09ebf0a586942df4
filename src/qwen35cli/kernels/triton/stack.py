"""All blocks of a model for a few tokens, with the norms, the residual and SwiGLU in the products.

Between its projections a layer still goes op by op.
"""

from collections.abc import Sequence

from torch import Tensor

from qwen35cli.kernels import reference
from qwen35cli.kernels.operands import BlockWeights, DeltaMixer, Replay, Stack

from .matvec import add_linear, norm_project, norm_project_swiglu


def stack(blocks: tuple[BlockWeights, ...]) -> Stack:
    """See `reference.stack`."""

    def run(
        x: Tensor, cos: Tensor, sin: Tensor, start: int, replays: Sequence[Replay] | None
    ) -> Tensor:
        left = iter(replays or ())
        for block in blocks:
            mixer = block.mixer
            parts = norm_project(x, block.norm, block.eps, mixer.project)
            if isinstance(mixer, DeltaMixer):
                qkv, z, a, b = parts
                memory = mixer.rows, mixer.state, next(left, None)
                y = reference.delta_mix(qkv, z, a, b, mixer.weights, *memory)
            else:
                q, k, v = parts
                y = reference.attend(q, k, v, mixer, block.eps, cos, sin, start)
            x = add_linear(x, y, mixer.out)
            inner = norm_project_swiglu(x, block.post_norm, block.eps, block.gate, block.up)
            x = add_linear(x, inner, block.down)
        return x

    return run
