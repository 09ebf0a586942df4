"""Pictures to patch rows: the resize rule, 8-bit bicubic, -1 to 1, cells of 2 x 2 patches.

Source: transformers : models/qwen2_vl/image_processing_pil_qwen2_vl.py
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from .resize import ImageLimits, smart_resize


@dataclass(frozen=True, eq=False)
class Patches:
    """A picture as the vision tower reads it.

    `pixels` is float32 (patches, 3 * time * patch * patch), -1 to 1, each row flattened as channel,
    time, y, x. Rows go by merge cell, and row by row inside a cell, so that `merge_size`**2
    neighbours make one token and the tokens are in raster order.
    """

    pixels: Tensor
    grid: tuple[int, int, int]  # time, rows, columns, in patches
    tokens: int
    size: tuple[int, int]  # width and height in pixels after the resize

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of what the vision tower gets: the same for the same picture."""
        grid = ",".join(map(str, self.grid)).encode()
        return hashlib.sha256(grid + self.pixels.numpy().tobytes()).digest()


def preprocess(picture: Image.Image, limits: ImageLimits) -> Patches:
    """Resize an RGB picture and cut it into patch rows.

    Raises:
        UsageError: see `smart_resize`.
    """
    assert picture.mode == "RGB", picture.mode
    height, width = smart_resize(picture.height, picture.width, limits)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    patch, merge = limits.patch_size, limits.merge_size
    rows, columns = height // patch, width // patch
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    cells = values.view(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    cells = cells.permute(0, 3, 1, 4, 6, 2, 5)  # cell row, cell column, row, column, RGB, y, x
    pixels = torch.empty(*cells.shape[:5], limits.temporal_patch_size, patch, patch)
    pixels.copy_(cells.unsqueeze(5))  # a still picture: the same at every time
    return Patches(
        pixels=pixels.div_(127.5).sub_(1).view(rows * columns, -1),
        grid=(1, rows, columns),
        tokens=rows * columns // merge**2,
        size=(width, height),
    )
