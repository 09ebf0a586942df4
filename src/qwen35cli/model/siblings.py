"""The dense Qwen3.5 sizes, so that their needs are known before anything is downloaded.

Source: the config.json of each repository, as of 2026.
"""

from collections.abc import Mapping
from typing import Final

from .config import Config, LayerType, RotaryConfig, TextConfig, VisionConfig

DELTA: Final[LayerType] = "linear_attention"
FULL: Final[LayerType] = "full_attention"


def _dense(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    value_heads: int,
    *,
    tied: bool,
    vision: tuple[int, int, int, int],  # depth, hidden, intermediate, heads
) -> Config:
    """What differs between the sizes; the rest is common to all."""
    depth, vision_hidden, vision_intermediate, vision_heads = vision
    return Config(
        text=TextConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            layer_types=(DELTA, DELTA, DELTA, FULL) * (layers // 4),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=256,
            linear_num_key_heads=16,
            linear_num_value_heads=value_heads,
            linear_key_head_dim=128,
            linear_value_head_dim=128,
            linear_conv_kernel_dim=4,
            rms_norm_eps=1e-6,
            vocab_size=248_320,
            max_position_embeddings=262_144,
            mtp_num_hidden_layers=1,
            rotary=RotaryConfig(theta=10_000_000.0, dim=64, sections=(11, 11, 10), yarn=None),
        ),
        vision=VisionConfig(
            depth=depth,
            hidden_size=vision_hidden,
            intermediate_size=vision_intermediate,
            num_heads=vision_heads,
            in_channels=3,
            patch_size=16,
            temporal_patch_size=2,
            spatial_merge_size=2,
            num_position_embeddings=2_304,
            out_hidden_size=hidden,
        ),
        tie_word_embeddings=tied,
        image_token_id=248_056,
        video_token_id=248_057,
        vision_start_token_id=248_053,
        vision_end_token_id=248_054,
    )


_LARGE, _LARGEST = (24, 1024, 4096, 16), (27, 1152, 4304, 16)
SIBLINGS: Final[Mapping[str, Config]] = {
    "Qwen/Qwen3.5-0.8B": _dense(1024, 3584, 24, 8, 2, 16, tied=True, vision=(12, 768, 3072, 12)),
    "Qwen/Qwen3.5-2B": _dense(2048, 6144, 24, 8, 2, 16, tied=True, vision=_LARGE),
    "Qwen/Qwen3.5-4B": _dense(2560, 9216, 32, 16, 4, 32, tied=True, vision=_LARGE),
    "Qwen/Qwen3.5-9B": _dense(4096, 12288, 32, 16, 4, 32, tied=False, vision=_LARGEST),
    "Qwen/Qwen3.5-27B": _dense(5120, 17408, 64, 24, 4, 48, tied=False, vision=_LARGEST),
}
