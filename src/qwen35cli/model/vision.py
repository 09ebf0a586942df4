"""The vision tower: patches, 2-D positions twice over (learned and rotary), blocks, and the merger.

Everything that runs per patch follows the order of `images.preprocess`: by merge cell, and row by
row inside it, so that `merge ** 2` consecutive rows become one token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qwen35cli.kernels import Kernels

from .config import VisionConfig
from .layers import LayerNorm, Linear
from .rotary import Grid

ROTARY_THETA = 10_000.0


class PatchProjection(nn.Module):
    """The patch convolution; its kernel equals its stride, so it is a linear map of each patch."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        shape = (config.hidden_size, config.in_channels, *kernel)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(config.hidden_size, dtype=dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, channels x time x height x width) -> (N, D)."""
        return self.kernels.linear(pixels, self.weight.flatten(1), self.bias)


class PatchEmbed(nn.Module):
    """Holds the projection under the checkpoint's name."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.proj = PatchProjection(config, kernels, dtype)


class PositionTable(nn.Module):
    """Learned positions on a square grid, resampled bilinearly with aligned corners."""

    def __init__(self, config: VisionConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.side = config.grid_side
        shape = (config.num_position_embeddings, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))

    def forward(self, rows: Tensor, cols: Tensor, height: int, width: int) -> Tensor:
        """Positions of patches (N,) at `rows`, `cols` of a height x width grid: (N, D) float32."""
        last = self.side - 1
        y = rows * (last / max(height - 1, 1))
        x = cols * (last / max(width - 1, 1))
        y0, x0 = y.long(), x.long()
        y1, x1 = (y0 + 1).clamp(max=last), (x0 + 1).clamp(max=last)
        dy, dx = (y - y0)[:, None], (x - x0)[:, None]
        table = self.weight.float()
        top = table[y0 * self.side + x0] * (1 - dx) + table[y0 * self.side + x1] * dx
        bottom = table[y1 * self.side + x0] * (1 - dx) + table[y1 * self.side + x1] * dx
        return top * (1 - dy) + bottom * dy


class VisionAttention(nn.Module):
    """Bidirectional attention inside each frame."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.heads = config.num_heads
        D = config.hidden_size
        self.qkv = Linear(D, 3 * D, kernels, dtype, bias=True)
        self.proj = Linear(D, D, kernels, dtype, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: tuple[int, ...]) -> Tensor:
        """x: (N, D); cos, sin: (N, Dh / 2)."""
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)  # (N, H, Dh) each
        q = self.kernels.rotary(q[None], cos[None], sin[None])[0]
        k = self.kernels.rotary(k[None], cos[None], sin[None])[0]
        return self.proj(self.kernels.segment_attention(q, k, v, segments).flatten(1))


class VisionMLP(nn.Module):
    """fc2(gelu_tanh(fc1(x)))."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        D, inner = config.hidden_size, config.intermediate_size
        self.linear_fc1 = Linear(D, inner, kernels, dtype, bias=True)
        self.linear_fc2 = Linear(inner, D, kernels, dtype, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(self.kernels.gelu_tanh(self.linear_fc1(x)))


class VisionBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.hidden_size, kernels, dtype)
        self.norm2 = LayerNorm(config.hidden_size, kernels, dtype)
        self.attn = VisionAttention(config, kernels, dtype)
        self.mlp = VisionMLP(config, kernels, dtype)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: tuple[int, ...]) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, segments)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Norms each patch, joins the patches of a cell, and maps them to the width of the text."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernels = kernels
        self.joined = config.hidden_size * config.spatial_merge_size**2
        self.norm = LayerNorm(config.hidden_size, kernels, dtype)
        self.linear_fc1 = Linear(self.joined, self.joined, kernels, dtype, bias=True)
        self.linear_fc2 = Linear(self.joined, config.out_hidden_size, kernels, dtype, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N / merge ** 2, out)."""
        x = self.norm(x).view(-1, self.joined)
        return self.linear_fc2(self.kernels.gelu(self.linear_fc1(x)))


class VisionModel(nn.Module):
    """Pictures in, rows for the text decoder out."""

    def __init__(self, config: VisionConfig, kernels: Kernels, dtype: torch.dtype) -> None:
        super().__init__()
        self.merge = config.spatial_merge_size
        self.rotary_dim = config.hidden_size // config.num_heads // 2
        self.patch_embed = PatchEmbed(config, kernels, dtype)
        self.pos_embed = PositionTable(config, dtype)
        self.blocks = nn.ModuleList(
            VisionBlock(config, kernels, dtype) for _ in range(config.depth)
        )
        self.merger = Merger(config, kernels, dtype)

    def forward(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Rows for the image tokens of all pictures, one after the other.

        Args:
            pixels: (N, patch values) of all pictures, in merge order, dtype of the activations.
            grids: patches of each picture (t, h, w); their products sum to N.

        Returns:
            (N / merge ** 2, out_hidden_size) in the dtype of `pixels`.
        """
        x = self.patch_embed.proj(pixels)
        places = [self._coordinates(h, w, x.device) for _, h, w in grids]
        learned = torch.cat(
            [
                self.pos_embed(rows, cols, h, w).repeat(t, 1)
                for (rows, cols), (t, h, w) in zip(places, grids, strict=True)
            ]
        )
        x = x + learned.to(x.dtype)
        coordinates = torch.cat(
            [
                torch.stack(place, dim=-1).repeat(t, 1)
                for place, (t, _, _) in zip(places, grids, strict=True)
            ]
        )  # (N, 2)
        steps = torch.arange(0, self.rotary_dim, 2, device=x.device) / self.rotary_dim
        angles = (coordinates[..., None].float() * ROTARY_THETA**-steps).flatten(1)  # (N, Dh / 2)
        cos, sin = angles.cos(), angles.sin()
        segments = tuple(h * w for t, h, w in grids for _ in range(t))
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(x)

    def _coordinates(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column of each patch of one frame, in merge order: two (N,)."""
        grid = torch.arange(height * width, device=device).view(
            height // self.merge, self.merge, width // self.merge, self.merge
        )
        index = grid.transpose(1, 2).reshape(-1)
        return index // width, index % width
