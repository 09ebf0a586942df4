"""The gated delta rule for the tokens of a decode step, with the norm and gate of its output.

A program holds some columns of one head's state in registers. It first carries out what stays of
the last step, from that step's log, and writes the state: the only time a step does. The new tokens
then leave a log and no trace, so that any of them can be taken back. Order and precision of the two
are the same, and so a state that was drafted and kept has the bits of one that was decoded.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from qwen35cli.kernels.operands import FEW, DeltaWeights

from .kernel import Kernel
from .tiles import wait

COLUMNS = 16  # of the state in a program
WHOLE = 32  # columns of a head that one program takes whole
WARPS = 1


@dataclass(frozen=True, slots=True)
class DeltaLogs:
    """Both logs of a layer; `control` says which is the one of the last step."""

    k: Tensor  # (2, FEW, G, K) float32
    d: Tensor  # (2, FEW, H, V) float32
    g: Tensor  # (2, FEW, H) float32


def parts(value_width: int) -> int:
    """Programs that share a head, and so sums of squares of its output."""
    return 1 if value_width <= WHOLE else value_width // COLUMNS


def delta_step(
    mixed: Tensor,
    z: Tensor,
    gates: Tensor,
    weights: DeltaWeights,
    state: Tensor,
    logs: DeltaLogs,
    control: Tensor,
    out: Tensor,
    squares: Tensor,
    tokens: int,
    *,
    overlap: bool = False,
) -> None:
    """One step of a DeltaNet layer behind its convolution. Twin: `reference.delta_mix`.

    Args:
        mixed: (8, C) float32, after the SiLU: G query heads, G key heads, H value heads.
        z: (8, H * V) bf16.
        gates: (8, 2 H) float32: a, then b.
        state: (1, H, K, V) float32; carried on by what `control` says stays of the last step.
        out: (8, H * V) bf16, written: outputs times the norm's weight and the gate. They are normed
            where a program holds a whole head; else their product is still to be divided by the
            root mean square of each head, from `squares`.
        squares: (8, H, parts) float32, written.
        overlap: start while the launch before ends (`tiles.wait`).
    """
    _, H, K, V = state.shape
    columns = V // parts(V)
    G = logs.k.shape[2]
    assert K == triton.next_power_of_2(K) and V % columns == 0
    assert mixed.shape == (FEW, 2 * G * K + H * V) and out.shape == z.shape == (FEW, H * V)
    assert squares.shape == (FEW, H, V // columns) and state.is_contiguous()
    _delta_step[(H, V // columns)](
        mixed,
        z,
        gates,
        weights.a_log,
        weights.dt_bias,
        weights.norm,
        state,
        logs.k,
        logs.d,
        logs.g,
        control,
        out,
        squares,
        weights.eps,
        G=G,
        H=H,
        K=K,
        V=V,
        COLUMNS=columns,
        T=tokens,
        PDL=overlap,
        num_warps=WARPS,
        launch_pdl=overlap,
    )


@Kernel
@triton.jit
def _delta_step(
    mixed_ptr, z_ptr, gates_ptr, a_log_ptr, dt_bias_ptr, norm_ptr,
    state_ptr, k_ptr, d_ptr, g_ptr, control_ptr, out_ptr, squares_ptr, eps,
    G: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    COLUMNS: tl.constexpr, T: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = 2 * G * K + H * V
    head = tl.program_id(0)
    part = tl.program_id(1)
    keys = tl.arange(0, K)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    group = head // (H // G)
    # State and logs are of earlier steps: what came just before gives `mixed`, `z` and `gates`.
    kept = tl.load(control_ptr + 2, cache_modifier=".cg")  # see `tiles.wait`
    parity = tl.load(control_ptr + 3, cache_modifier=".cg")
    state_ptr += head * (K * V) + keys[:, None] * V + columns[None, :]
    s = tl.load(state_ptr, cache_modifier=".cg")  # (K, COLUMNS)
    k_past, k_new = k_ptr + parity * (8 * G * K), k_ptr + (1 - parity) * (8 * G * K)
    d_past, d_new = d_ptr + parity * (8 * H * V), d_ptr + (1 - parity) * (8 * H * V)
    g_past, g_new = g_ptr + parity * (8 * H), g_ptr + (1 - parity) * (8 * H)
    rate = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    bias = tl.load(dt_bias_ptr + head).to(tl.float32)
    weight = tl.load(norm_ptr + columns).to(tl.float32)
    for i in range(kept):
        k = tl.load(k_past + (i * G + group) * K + keys, cache_modifier=".cg")
        d = tl.load(d_past + (i * H + head) * V + columns, cache_modifier=".cg")
        g = tl.load(g_past + i * H + head, cache_modifier=".cg")
        s = tl.fma(k[:, None], d[None, :], tl.exp(g) * s)  # fused as below
    if kept > 0:
        tl.store(state_ptr, s)
    wait(PDL)

    for t in tl.static_range(T):
        row = mixed_ptr + t * C
        q = tl.load(row + group * K + keys)
        k = tl.load(row + (G + group) * K + keys)
        v = tl.load(row + 2 * G * K + head * V + columns)
        z = tl.load(z_ptr + t * (H * V) + head * V + columns).to(tl.float32)
        a = tl.load(gates_ptr + t * (2 * H) + head) + bias
        b = tl.load(gates_ptr + t * (2 * H) + H + head)
        # Of q and k as they come: all sums in one pass over the state, scaled afterwards.
        q_state = tl.sum(q[:, None] * s, axis=0)
        k_state = tl.sum(k[:, None] * s, axis=0)
        q_scale = 1.0 / tl.sqrt(_sum(q, q) + 1e-6) / tl.sqrt(K * 1.0)
        k_scale = 1.0 / tl.sqrt(_sum(k, k) + 1e-6)
        q_k = _sum(q, k) * q_scale * k_scale
        g = rate * tl.where(a > 20.0, a, tl.log(1.0 + tl.exp(tl.minimum(a, 20.0))))
        decay = tl.exp(g)
        d = tl.fma(-decay * k_scale, k_state, v) * tl.sigmoid(b)
        y = tl.fma(q_k, d, decay * q_scale * q_state)
        k *= k_scale
        if t + 1 < T:
            s = tl.fma(k[:, None], d[None, :], decay * s)
        tl.store(d_new + (t * H + head) * V + columns, d)
        if part == 0:
            tl.store(g_new + t * H + head, g)
            if head % (H // G) == 0:
                tl.store(k_new + (t * G + group) * K + keys, k)
        total = _sum(y, y)
        if COLUMNS == V:
            y *= 1.0 / tl.sqrt(total / V + eps)
        y = y * weight * z * tl.sigmoid(z)
        tl.store(out_ptr + t * (H * V) + head * V + columns, y.to(out_ptr.dtype.element_ty))
        tl.store(squares_ptr + (t * H + head) * (V // COLUMNS) + part, total)


@triton.jit
def _sum(a, b):
    """Of products that are rounded before they are added.

    Where a thread has one product the assembler would fuse it with its neighbour's, which fuses the
    other one: each would hold another sum, and a key in registers would not be that in the log.
    """
    return tl.sum(tl.fma(a, b, 0.0))
