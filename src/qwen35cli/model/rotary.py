"""Positions and their rotation: three axes, interleaved over the frequencies; YaRN if asked for."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from .config import RotaryConfig

Grid = tuple[int, int, int]  # patches of a picture: (time, height, width)


class Rotary:
    """Angles of the text tower. Holds no parameter; tables are as long as they are asked for."""

    def __init__(self, config: RotaryConfig) -> None:
        count = config.dim // 2
        frequencies, self.magnitude = _frequencies(config)
        # Tensors made here must be real even where the model is built on the meta device.
        self.frequencies = torch.tensor(frequencies, dtype=torch.float32, device="cpu")
        axes = [0] * count
        for axis in (1, 2):
            for i in range(axis, min(3 * config.sections[axis], count), 3):
                axes[i] = axis
        self.axes = torch.tensor(axes, device="cpu")

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32.

        Args:
            positions: (3, B, T) integers: time, height, width.

        Returns:
            Two tensors (B, T, dim / 2).
        """
        device = positions.device
        if self.frequencies.device != device:
            self.frequencies, self.axes = self.frequencies.to(device), self.axes.to(device)
        angles = positions[self.axes].permute(1, 2, 0).float() * self.frequencies
        return angles.cos() * self.magnitude, angles.sin() * self.magnitude


def _frequencies(config: RotaryConfig) -> tuple[list[float], float]:
    """Inverse frequencies, and the factor on cosine and sine. Source: YaRN, arXiv:2309.00071."""
    dim, theta, yarn = config.dim, config.theta, config.yarn
    plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    if yarn is None:
        return plain, 1.0

    def turns_at(rotations: float) -> float:
        trained = yarn.original_max_position_embeddings
        return dim * math.log(trained / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(turns_at(yarn.beta_fast)), 0)
    high = min(math.ceil(turns_at(yarn.beta_slow)), dim - 1)
    span = max(high - low, 0.001)
    ramp = [min(max((i - low) / span, 0.0), 1.0) for i in range(dim // 2)]
    scaled = [f * (1 - r) + f / yarn.factor * r for f, r in zip(plain, ramp, strict=True)]
    return scaled, 0.1 * math.log(yarn.factor) + 1 if yarn.factor > 1 else 1.0


def prompt_positions(
    ids: Sequence[int], image_token: int, grids: Sequence[Grid], merge: int
) -> tuple[Tensor, int]:
    """Positions of a whole prompt, and what to add to later indices.

    Text counts up on all three axes together. A picture of R x C merged cells stays at one time,
    spreads its rows and columns over the other two, and moves the count on by max(R, C).

    Args:
        ids: token ids; every run of `image_token` is one frame of `grids`, in order.
        grids: patches of each picture (t, h, w), before merging.
        merge: patches per side of a merged cell.

    Returns:
        (3, 1, T) int64, and the delta: token s that follows has position s + delta.

    Raises:
        ValueError: runs of `image_token` and pictures do not match.
    """
    frames = [(h // merge, w // merge) for t, h, w in grids for _ in range(t)]
    columns: list[Tensor] = []
    current = frame = 0
    for is_image, run in groupby(ids, lambda token: token == image_token):
        count = sum(1 for _ in run)
        if not is_image:
            columns.append((current + torch.arange(count)).expand(3, -1))
            current += count
            continue
        if frame == len(frames) or math.prod(frames[frame]) != count:
            wanted = math.prod(frames[frame]) if frame < len(frames) else 0
            raise ValueError(f"{count} image tokens for a picture of {wanted}")
        rows, cols = frames[frame]
        height = torch.arange(rows).repeat_interleave(cols)
        width = torch.arange(cols).repeat(rows)
        columns.append(current + torch.stack([torch.zeros_like(height), height, width]))
        current += max(rows, cols)
        frame += 1
    if frame != len(frames):
        raise ValueError(f"{len(frames)} pictures for {frame} runs of image tokens")
    return torch.cat(columns, dim=1)[:, None], current - len(ids)
