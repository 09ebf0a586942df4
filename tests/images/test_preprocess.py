"""The resize rule and the patch rows, against transformers' own image processor."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as oracle

from qwen35cli.errors import ModelError, UsageError
from qwen35cli.images.preprocess import preprocess
from qwen35cli.images.resize import ImageLimits, smart_resize

RAW = {
    "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
LIMITS = ImageLimits.from_dict(RAW)


def noise(width, height, seed=0):
    """A picture in which no two neighbours agree, so that nothing can be swapped unnoticed."""
    data = random.Random(seed).randbytes(3 * width * height)
    return Image.frombytes("RGB", (width, height), data)


def processor(limits):
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    cut = {k: v for k, v in RAW.items() if k.endswith(("_size", "_mean", "_std"))}
    return oracle.Qwen2VLImageProcessorPil(**cut, size=size)


@pytest.mark.parametrize(
    ("size", "resized", "grid", "tokens"),
    [
        ((640, 480), (640, 480), (30, 40), 300),
        ((64, 64), (256, 256), (16, 16), 64),
        ((224, 224), (256, 256), (16, 16), 64),
        ((1000, 333), (992, 320), (20, 62), 310),
        ((37, 500), (96, 960), (60, 6), 90),
        ((17, 3000), (32, 3008), (188, 2), 94),
        ((1920, 1080), (1920, 1088), (68, 120), 2040),
        ((3840, 2160), (3840, 2176), (136, 240), 8160),
        ((5000, 4000), (4576, 3648), (228, 286), 16302),
        ((8000, 8000), (4096, 4096), (256, 256), 16384),
        ((1, 1), (256, 256), (16, 16), 64),
        ((1, 200), (32, 3648), (228, 2), 114),
    ],
)
def test_sizes_are_those_of_the_reference_sheet(size, resized, grid, tokens):
    width, height = resized
    assert smart_resize(size[1], size[0], LIMITS) == (height, width)
    assert (height // 16, width // 16) == grid
    assert height * width // LIMITS.factor**2 == tokens


@pytest.mark.parametrize("max_pixels", [16_777_216, 1_048_576, 65_536])
def test_resize_rule_equals_transformers(max_pixels):
    rng = random.Random(max_pixels)
    limits = replace(LIMITS, max_pixels=max_pixels)
    for _ in range(5_000):
        height = round(2 ** rng.uniform(0, 14.2))
        width = round(min(20_000, max(1, height * 200 ** rng.uniform(-1, 1))))
        if max(height, width) > 200 * min(height, width):
            continue
        expected = oracle.smart_resize(height, width, 32, limits.min_pixels, limits.max_pixels)
        assert smart_resize(height, width, limits) == expected, (height, width)


def test_only_a_long_thin_picture_takes_more_tokens_than_asked_for():
    for tokens in range(1, 200):
        limits = LIMITS.at_most(tokens)
        for side in range(1, 320, 7):
            for width, height in ((side, 40), (40, side), (side, side)):
                if max(width, height) <= tokens * min(width, height):
                    h, w = smart_resize(height, width, limits)
                    assert h * w <= tokens * limits.factor**2, (width, height, tokens)
    assert smart_resize(40, 48, LIMITS.at_most(64)) == (224, 256)
    assert LIMITS.at_most(16_384) == LIMITS


@pytest.mark.parametrize("side", [16, 48, 80, 432, 464])  # halves: 48/32 rounds up, 80/32 down
def test_halves_round_to_even(side):
    limits = replace(LIMITS, min_pixels=1)
    expected = oracle.smart_resize(side, 640, 32, 1, limits.max_pixels)
    assert smart_resize(side, 640, limits) == expected


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (20_000, 99), (1, 5_000)])
def test_too_long_a_picture_is_refused_with_its_size(size):
    with pytest.raises(UsageError, match="at most 200 times") as caught:
        smart_resize(size[1], size[0], LIMITS)
    assert f"{size[0]:,} × {size[1]:,}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("size", [(320, 256), (300, 231), (700, 400), (50, 31), (1, 1), (1, 200)])
@pytest.mark.parametrize("max_pixels", [16_777_216, 131_072])
def test_patches_equal_transformers(size, max_pixels):
    limits = replace(LIMITS, max_pixels=max_pixels)
    picture = noise(*size)
    expected = processor(limits)(picture, return_tensors="pt")
    patches = preprocess(picture, limits)
    assert [list(patches.grid)] == expected["image_grid_thw"].tolist()
    assert patches.pixels.dtype == torch.float32
    torch.testing.assert_close(patches.pixels, expected["pixel_values"], rtol=0, atol=2e-7)


def test_rows_go_by_merge_cell_and_inside_a_row_by_channel_time_y_x():
    side = 64  # 4 x 4 patches
    limits = replace(LIMITS, min_pixels=1)
    picture = noise(side, side)
    values = np.asarray(picture)
    order = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    order += [(row + 2, column) for row, column in order]
    patches = preprocess(picture, limits)
    assert (patches.grid, patches.tokens, patches.size) == ((1, 4, 4), 4, (side, side))
    for row, (r, c) in zip(patches.pixels, order, strict=True):
        block = values[16 * r : 16 * r + 16, 16 * c : 16 * c + 16].transpose(2, 0, 1)
        expected = np.repeat(block[:, None], 2, axis=1).reshape(-1) / 127.5 - 1
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)


def test_pixels_span_minus_one_to_one_and_the_picture_is_left_alone():
    picture = Image.new("RGB", (256, 256), "white")
    picture.paste("black", (0, 0, 16, 16))
    before = picture.tobytes()
    pixels = preprocess(picture, LIMITS).pixels
    assert (pixels[0] == -1).all()
    assert (pixels[1:] == 1).all()
    assert picture.tobytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": {"longest_edge": 1 << 20}},
        {"size": {"shortest_edge": 1 << 21, "longest_edge": 1 << 20}},
        {"size": {"shortest_edge": 1, "longest_edge": 1_000}},  # below one token
        {"size": {"shortest_edge": 1, "longest_edge": 1 << 40}},
        {"patch_size": 0},
        {"patch_size": "16"},
        {"patch_size": True},
        {"merge_size": 10**9},
        {"temporal_patch_size": 2.0},
        {"image_mean": [0.48, 0.46, 0.41]},
        {"image_std": None},
    ],
    ids=str,
)
def test_a_hostile_preprocessor_config_is_refused(change):
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        ImageLimits.from_dict(RAW | change)


def test_an_empty_preprocessor_config_is_refused():
    with pytest.raises(ModelError):
        ImageLimits.from_dict({})
