"""Tiny random Qwen3.5 models with every structural feature of the big ones."""

from pathlib import Path
from typing import Any

import torch

from qwen35cli.kernels import Kernels, select
from qwen35cli.model.config import Config
from qwen35cli.model.qwen35 import Qwen35


def tiny_config(
    *,
    tied: bool = True,
    value_heads: int = 4,
    layers: int = 8,
    vocab: int = 512,
    vision: bool = True,
    mtp: bool = True,
    **text: Any,
) -> dict[str, Any]:
    """A `config.json` as the real ones are written: r = value_heads / 2."""
    raw: dict[str, Any] = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "tie_word_embeddings": tied,
        "image_token_id": vocab - 4,
        "video_token_id": vocab - 3,
        "vision_start_token_id": vocab - 2,
        "vision_end_token_id": vocab - 1,
        "text_config": {
            "model_type": "qwen3_5_text",
            "dtype": "bfloat16",
            "hidden_size": 64,
            "intermediate_size": 112,
            "num_hidden_layers": layers,
            "layer_types": [
                "linear_attention" if (i + 1) % 4 else "full_attention" for i in range(layers)
            ],
            "full_attention_interval": 4,
            "hidden_act": "silu",
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 48,
            "linear_conv_kernel_dim": 4,
            "mamba_ssm_dtype": "float32",
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.02,
            "vocab_size": vocab,
            "eos_token_id": 0,
            "max_position_embeddings": 4096,
            "use_cache": True,
            "tie_word_embeddings": tied,
            "mlp_only_layers": [],
            "mtp_num_hidden_layers": int(mtp),
            "mtp_use_dedicated_embeddings": False,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [3, 3, 2],
                "rope_type": "default",
                "rope_theta": 10_000_000,
                "partial_rotary_factor": 0.5,
            },
        }
        | text,
    }
    if vision:
        raw["vision_config"] = {
            "model_type": "qwen3_5",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 36,
            "out_hidden_size": raw["text_config"]["hidden_size"],
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": [],
            "initializer_range": 0.02,
        }
    return raw


@torch.no_grad()
def randomize(model: Qwen35, seed: int = 0) -> None:
    """Fill every parameter with values of a size that keeps each path alive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("A_log"):
            value = torch.rand(parameter.shape, generator=generator).add(0.02).log()
        elif name.endswith("linear_attn.norm.weight"):
            value = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            value = 0.2 * noise
        else:
            value = 0.7 * noise * parameter[0].numel() ** -0.5
        parameter.copy_(value)


def tiny_model(
    raw: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels | None = None,
    seed: int = 0,
) -> Qwen35:
    """A random model on the CPU, in float32 unless told otherwise."""
    config = Config.from_dict(raw or tiny_config())
    model = Qwen35(config, kernels or select(torch.device("cpu"), "reference"), dtype)
    randomize(model, seed)
    return model.requires_grad_(False)


def checkpoint_state(model: Qwen35) -> dict[str, torch.Tensor]:
    """The weights of `model` under the names of a checkpoint."""
    return {
        f"model.{name}" if name.startswith(("language_model.", "visual.")) else name: tensor
        for name, tensor in model.state_dict().items()
    }


def write_tiny_checkpoint(folder: Path, raw: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A complete random checkpoint with the demo's tokenizer, ready for `--model FOLDER`."""
    from qwen35cli.checkpoint.write import write_checkpoint

    raw = raw or tiny_config()
    write_checkpoint(
        folder, checkpoint_state(tiny_model(raw, dtype=torch.bfloat16, seed=seed)), raw
    )
    return folder
