"""To which size a picture is brought. Free of torch.

Source: transformers : models/qwen2_vl/image_processing_pil_qwen2_vl.py
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from qwen35cli.errors import ModelError, UsageError

MAX_ASPECT = 200
MAX_SIDE = 20_000  # of a picture that is decoded
MAX_PIXELS = 50_000_000

# Highest value accepted from a file.
_CEILINGS = {
    "patch_size": 256,
    "temporal_patch_size": 16,
    "merge_size": 16,
    "shortest_edge": 1 << 28,
    "longest_edge": 1 << 28,
}


@dataclass(frozen=True)
class ImageLimits:
    """How pictures are cut, and between which areas they are resized.

    A smaller `max_pixels` saves tokens; only long, thin pictures can still go past it.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    capped: bool = False  # below what the model takes: then enlarging keeps to it as well

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read a parsed `preprocessor_config.json`.

        Raises:
            ModelError: a field is missing or out of range, or colours are scaled in another way.
        """
        size = raw.get("size")
        if not isinstance(size, Mapping):
            raise ModelError("preprocessor_config.json has no size with two areas in pixels")
        for key in ("image_mean", "image_std"):
            if raw.get(key) != [0.5, 0.5, 0.5]:
                raise ModelError(
                    f"preprocessor_config.json has {key} {str(raw.get(key))[:80]!r}, "
                    "where Qwen3.5 has [0.5, 0.5, 0.5]"
                )
        limits = cls(
            patch_size=_number(raw, "patch_size"),
            temporal_patch_size=_number(raw, "temporal_patch_size"),
            merge_size=_number(raw, "merge_size"),
            min_pixels=_number(size, "shortest_edge"),  # areas, despite the names
            max_pixels=_number(size, "longest_edge"),
        )
        if not limits.factor**2 <= limits.max_pixels >= limits.min_pixels:
            raise ModelError(
                f"preprocessor_config.json allows pictures of {limits.min_pixels:,} to "
                f"{limits.max_pixels:,} pixels, which leaves no picture of "
                f"{limits.factor} × {limits.factor}"
            )
        return limits

    def at_most(self, tokens: int | None) -> "ImageLimits":
        """The same with no picture of more tokens; None: the model's own limit."""
        if tokens is None or (area := tokens * self.factor**2) >= self.max_pixels:
            return self
        return replace(self, max_pixels=area, min_pixels=min(self.min_pixels, area), capped=True)

    @property
    def most_patches(self) -> int:
        """Of one picture that is not long and thin."""
        return self.max_pixels // self.patch_size**2

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge_size


def smart_resize(height: int, width: int, limits: ImageLimits) -> tuple[int, int]:
    """Height and width, multiples of the factor, nearest to the picture's within the areas.

    Raises:
        UsageError: one side is more than 200 times the other.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise UsageError(
            f"the picture has {width:,} × {height:,} pixels; "
            f"one side may be at most {MAX_ASPECT} times the other",
            "crop it to the part that matters",
        )
    factor = limits.factor
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width < limits.min_pixels:
        scale = math.sqrt(limits.min_pixels / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
        if not limits.capped:
            return new_height, new_width
    if new_height * new_width > limits.max_pixels:
        scale = math.sqrt(height * width / limits.max_pixels)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    return new_height, new_width


def _number(raw: Mapping[str, Any], key: str) -> int:
    value, ceiling = raw.get(key), _CEILINGS[key]
    if type(value) is not int or not 1 <= value <= ceiling:
        raise ModelError(
            f"preprocessor_config.json has {key} {str(value)[:40]!r}, "
            f"not a number from 1 to {ceiling:,}"
        )
    return value
